"""The database: one engine, and sessions that give back what they borrowed."""

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
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel.ext.asyncio.session import AsyncSession

from bff.settings import Settings

_SECONDS: Final = 10
"""The longest that a statement, a connection or a place in the pool is waited for."""

VERSION_TABLE: Final = "bff_alembic_version"
"""Where Alembic keeps the revision of the engine's tables; `alembic_version` is the app's."""

UNAVAILABLE: Final = (OperationalError, InterfaceError, PoolTimeoutError, OSError, TimeoutError)
"""What a database in trouble raises."""

_TROUBLE: Final = ("08", "53", "57P")
"""SQLSTATE: connection exception, insufficient resources, operator intervention."""


class Database:
    """Nothing is connected until the first session is used."""

    def __init__(self, settings: Settings) -> None:
        self.engine = make_engine(settings.database_url)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """A session of its own. What is not committed inside is rolled back."""
        async with AsyncSession(self.engine, expire_on_commit=False) as session:
            yield session

    async def ping(self, timeout: float = 3) -> None:
        """Ask for a sign of life, for at most `timeout` seconds.

        Raises:
            Exception: there was none; of `UNAVAILABLE` in most cases.
        """
        async with asyncio.timeout(timeout), self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))

    async def close(self) -> None:
        """Close the pool."""
        await self.engine.dispose()


def make_engine(database_url: str, *, migrating: bool = False) -> AsyncEngine:
    """An engine for SQLite or PostgreSQL, with a deadline for everything that waits.

    What is stored gets into no log and no error message. A migration gets connections of its own,
    and statements may take as long as they take.
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
    event.listen(engine.sync_engine, "handle_error", _tell_trouble, retval=True)
    return engine


def _tell_trouble(context: ExceptionContext) -> OperationalError | None:
    """Make an `OperationalError` of what PostgreSQL says while it starts, stops or is full, and of
    asyncpg's confusion when a connection ends just as a statement begins.

    SQLAlchemy makes a bare `DBAPIError` of it, as of so much else.
    """
    error = context.original_exception
    state = getattr(error, "sqlstate", None) or ""
    if type(error).__name__ == "InternalClientError":
        context.is_disconnect = True
    elif not state.startswith(_TROUBLE):
        return None
    return OperationalError(context.statement, None, error, hide_parameters=True)


def _to_json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    """Readers and a writer side by side, writers in a queue, foreign keys checked.

    The journal mode stays with the file. While several connections set it at the same time SQLite
    refuses all but one, without waiting: the others have what they want.
    """
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={_SECONDS * 1000}")
    cursor.execute("PRAGMA foreign_keys=ON")
    with suppress(sqlite3.OperationalError):
        cursor.execute("PRAGMA journal_mode=WAL")
    cursor.close()
