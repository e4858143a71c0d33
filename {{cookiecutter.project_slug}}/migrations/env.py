"""Run by Alembic for your tables: by `bff migrate`, and by the `alembic` program."""

from __future__ import annotations

from alembic import context
from sqlmodel import SQLModel

import app.tables  # noqa: F401
from app.settings import Settings
from bff import run_revisions

run_revisions(context.config, SQLModel.metadata, lambda: Settings().database_url)
