"""Alembic's environment for the engine's tables. `bff migrate` provides the connection."""

from __future__ import annotations

from alembic import context

from bff.db.alembic_env import run_revisions
from bff.db.tables import EngineTable

run_revisions(context.config, EngineTable.metadata)
