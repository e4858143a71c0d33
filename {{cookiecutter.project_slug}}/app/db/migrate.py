"""Brings the database's schema to the newest revision."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.db.database import make_engine
from app.settings import Settings

_FOLDER: Final = Path(__file__).parents[2] / "migrations"
_LOCK: Final = 4_221_907_530_816_204_311
"""Any number, as long as nothing else in the database locks the same one."""
_WAIT: Final = 120
"""Seconds to wait for another instance that migrates."""


async def upgrade(settings: Settings) -> None:
    """Go to the newest revision. Instances that start together do it one after the other.

    Raises:
        sqlalchemy.exc.SQLAlchemyError, OSError: the database is away, a revision failed, or
            another instance has been migrating for too long.
    """
    async with _engine(settings) as engine, _alone(engine) as connection:
        await connection.run_sync(_upgrade)


async def revise(settings: Settings, message: str) -> None:
    """Write a revision file for what differs between the tables and the database."""
    async with _engine(settings) as engine, engine.connect() as connection:
        await connection.run_sync(_revise, message)


async def is_current(settings: Settings) -> bool:
    """Whether the database is at the newest revision."""
    async with _engine(settings) as engine, engine.connect() as connection:
        return await connection.run_sync(_is_current)


def make_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration; there is no `alembic.ini`."""
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


@asynccontextmanager
async def _engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    engine = make_engine(settings.database_url, migrating=True)
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def _alone(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection for the only migration of this database."""
    if engine.dialect.name == "postgresql":
        async with engine.begin() as guard, engine.connect() as connection:
            await guard.execute(text(f"SET LOCAL lock_timeout = '{_WAIT}s'"))
            await guard.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            yield connection
        return
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.exec_driver_sql(f"PRAGMA busy_timeout={_WAIT * 1000}")
        await connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection
        await connection.exec_driver_sql("COMMIT")


def _upgrade(connection: Connection) -> None:
    command.upgrade(make_config(connection), "head")


def _revise(connection: Connection, message: str) -> None:
    command.revision(make_config(connection), message, autogenerate=True)


def _is_current(connection: Connection) -> bool:
    newest = ScriptDirectory.from_config(make_config()).get_current_head()
    return MigrationContext.configure(connection).get_current_revision() == newest
