"""What a migration logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from bff.db import migrate
from bff.db.histories import ENGINE
from bff.settings import Settings
from bff.telemetry import logs


@pytest.fixture(name="logged")
def logged_fixture(settings: Settings) -> Iterator[list[str]]:
    """The messages of alembic that reach a handler."""
    logs.configure(settings.model_copy(update={"log_level": "INFO"}))
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("alembic").addHandler(handler)
    yield messages
    logging.getLogger("alembic").removeHandler(handler)


async def test_a_migration_logs_its_steps_and_nothing_else(
    settings: Settings, logged: list[str]
) -> None:
    await migrate.upgrade(settings, (ENGINE,))
    assert logged
    assert all(message.startswith("Running upgrade ") for message in logged)
    steps = len(logged)
    await migrate.upgrade(settings, (ENGINE,))
    assert len(logged) == steps
