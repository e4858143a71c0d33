"""Run by Alembic for the engine's tables, on the connection of `bff migrate`."""

from __future__ import annotations

from alembic import context

from bff.db.migrate import run_revisions
from bff.db.tables import EngineTable

run_revisions(context.config, EngineTable.metadata)
