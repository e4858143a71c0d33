"""The database: an async SQLAlchemy engine and its sessions."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import orjson
from sqlalchemy import NullPool, event, text
from sqlalchemy.engine import ExceptionContext, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from bff.settings import Settings

_SECONDS: Final = 10
"""The time limit for a statement, for connecting, and for getting a pooled connection."""

VERSION_TABLE: Final = "bff_alembic_version"
"""The Alembic version table of the engine's tables. The app has its own, `alembic_version`."""

UNAVAILABLE: Final = (OperationalError, InterfaceError, PoolTimeoutError, OSError, TimeoutError)
"""The errors of a database that is not available."""

_RIGHTS: Final = (
    "SELECT id FROM bff_broadcast WHERE 1 = 0",
    "INSERT INTO bff_broadcast SELECT * FROM bff_broadcast WHERE 1 = 0",
    "UPDATE bff_broadcast SET id = id WHERE 1 = 0",
    "SELECT id FROM bff_audit WHERE 1 = 0",
    "INSERT INTO bff_audit SELECT * FROM bff_audit WHERE 1 = 0",
    "DELETE FROM bff_audit WHERE 1 = 0",
)
"""What the engine does with its tables. A result without `*`: PostgreSQL refuses a cached statement
once after a migration has changed the columns of its result."""

_UNAVAILABLE_STATES: Final = ("08", "28", "3D", "53", "57P")
"""SQLSTATE prefixes: connection exception, invalid authorization, no such database, insufficient
resources, operator intervention."""


class Database:
    """Connects when a session is first used."""

    def __init__(self, settings: Settings) -> None:
        self.engine = make_engine(settings.database_url)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """A new session. What is not committed inside the block is rolled back."""
        async with AsyncSession(self.engine, expire_on_commit=False) as session:
            yield session

    async def ping(self, timeout: float = 3) -> None:
        """Run `SELECT 1` within `timeout` seconds.

        Raises:
            Exception: the database did not answer; in most cases one of `UNAVAILABLE`.
        """
        async with asyncio.timeout(timeout), self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def missing_right(self) -> str:
        """The database's error if this user may not do what the engine does with its tables; or
        empty. Each statement concerns no row, and all are rolled back."""
        for statement in _RIGHTS:
            async with self.engine.connect() as connection:
                try:
                    await connection.execute(text(statement))
                except DBAPIError as error:
                    return f"{statement.split()[0]}: {str(error.orig).partition(chr(10))[0]}"
                finally:
                    await connection.rollback()
        return ""

    async def close(self) -> None:
        """Close all connections."""
        await self.engine.dispose()


def make_engine(database_url: str, *, migrating: bool = False) -> AsyncEngine:
    """An engine for SQLite or PostgreSQL, with a time limit for every operation.

    Parameters of statements appear neither in logs nor in error messages. With `migrating` there is
    no pool, and statements have no time limit.
    """
    url = make_url(database_url)
    options: dict[str, Any] = {"json_serializer": _to_json, "hide_parameters": True}
    if migrating:
        options["poolclass"] = NullPool
    if url.get_backend_name() == "sqlite":
        logging.getLogger("aiosqlite").setLevel(logging.WARNING)
        engine = create_async_engine(url, **options)
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        return engine
    options["connect_args"] = {"timeout": _SECONDS}
    if not migrating:
        options["connect_args"]["command_timeout"] = _SECONDS
        options |= {"pool_timeout": _SECONDS, "pool_pre_ping": True}
    engine = create_async_engine(url, **options)
    event.listen(engine.sync_engine, "handle_error", _to_operational_error, retval=True)
    return engine


def _to_operational_error(context: ExceptionContext) -> OperationalError | None:
    """Convert PostgreSQL's errors of `_UNAVAILABLE_STATES` to `OperationalError`.

    SQLAlchemy raises a plain `DBAPIError` for them. asyncpg raises `InternalClientError` when a
    connection ends just as a statement begins.
    """
    error = context.original_exception
    state = getattr(error, "sqlstate", None) or ""
    if type(error).__name__ == "InternalClientError":
        context.is_disconnect = True
    elif not state.startswith(_UNAVAILABLE_STATES):
        return None
    return OperationalError(context.statement, None, error, hide_parameters=True)


def _to_json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    """Readers do not block the writer (WAL), writers wait for each other, foreign keys hold.

    The journal mode is stored in the file. If several connections set it at once SQLite refuses all
    but one, whatever the timeout. The error is ignored, since one of them has set it.
    """
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_SECONDS * 1000}")
    cursor.execute("PRAGMA foreign_keys=ON")
    with suppress(sqlite3.OperationalError):
        cursor.execute("PRAGMA journal_mode=WAL")
    cursor.close()
