"""A new database for each test."""

from __future__ import annotations

from tests.engine.db.conftest import database, settings  # noqa: F401
