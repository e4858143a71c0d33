"""A new database for each test: SQLite, or PostgreSQL if `TEST_DATABASE_URL` is set."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator

import pytest
from bff.db import migrate
from bff.db.database import Database
from bff.settings import Settings
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine


@pytest.fixture
async def settings(settings: Settings) -> AsyncIterator[Settings]:
    """The settings of all tests, with a new database."""
    server = os.environ.get("TEST_DATABASE_URL")
    if server is None:
        yield settings
        return
    name = f"test_{secrets.token_hex(6)}"
    url = make_url(server).set(database=name).render_as_string(hide_password=False)
    engine = create_async_engine(server, isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            await connection.execute(text(f"CREATE DATABASE {name} TEMPLATE template0"))
            yield settings.model_copy(update={"database_url": url})
            await connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        await engine.dispose()


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    await migrate.upgrade(settings)
    database = Database(settings)
    yield database
    await database.close()
