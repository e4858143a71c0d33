"""Applies the revisions of both histories, or prints their SQL.

A lock lets instances that start together migrate one after the other.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from alembic import command
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from bff.db.database import make_engine
from bff.db.histories import HISTORIES, Applied, History, applied, newer
from bff.settings import Settings

HEADS: Final = "heads"
"""The newest revisions of this code."""

_LOCK: Final = 4_221_907_530_816_204_311
"""The key of the advisory lock: any number that nothing else in the database uses."""
_LOCK_SECONDS: Final = 120
"""How long to wait while another instance migrates."""


async def upgrade(settings: Settings, histories: Sequence[History] = HISTORIES) -> str:
    """Bring both histories to their newest revision, the engine's first.

    A history that the database has in a later version is left as it is: an old instance may start
    during a rolling update. Returns a sentence that names it; empty if there is none.

    Raises:
        sqlalchemy.exc.SQLAlchemyError, OSError: the database is not available, a revision failed,
            or another instance has been migrating for more than two minutes.
    """
    async with _engine(settings) as engine, _locked(engine) as connection:
        found = {each.name: await connection.run_sync(_upgrade, each) for each in histories}
    return newer(found)


async def migrate_to(settings: Settings, history: History, revision: str) -> None:
    """Bring one history to a revision, by an upgrade or a downgrade.

    `revision` is an id or the beginning of one, `head`, `base`, `+1` or `-1`.

    Raises:
        alembic.util.CommandError: this code does not have the revision, or the database has one
            that this code does not have.
        sqlalchemy.exc.SQLAlchemyError, OSError: as with `upgrade`.
    """
    async with _engine(settings) as engine, _locked(engine) as connection:
        await connection.run_sync(_migrate_to, history, revision)


async def sql(settings: Settings, targets: Sequence[tuple[History, str]]) -> str:
    """The SQL that brings each history to a revision, from those that the database has.

    Raises:
        alembic.util.CommandError, sqlalchemy.exc.SQLAlchemyError, OSError: as with `migrate_to`.
    """
    async with _engine(settings) as engine, engine.connect() as connection:
        parts = [await connection.run_sync(_sql, history, to) for history, to in targets]
    return "".join(parts)


async def current(settings: Settings) -> dict[str, Applied]:
    """What the database has of each history, by its name."""
    async with _engine(settings) as engine:
        return await applied(engine)


def _upgrade(connection: Connection, history: History) -> Applied:
    found = history.applied(connection)
    if not found.unknown:
        command.upgrade(history.config(connection), HEADS)
    _end_reading(connection)
    return found


def _migrate_to(connection: Connection, history: History, revision: str) -> None:
    config = history.config(connection)
    if history.is_before(revision, _known(connection, history)):
        command.downgrade(config, revision)
    else:
        command.upgrade(config, revision)
    _end_reading(connection)


def _end_reading(connection: Connection) -> None:
    """End the transaction in which Alembic reads its version table: on PostgreSQL the revisions of
    the next history would run inside it and never be committed."""
    if connection.dialect.name == "postgresql":
        connection.commit()


def _sql(connection: Connection, history: History, revision: str) -> str:
    found = _known(connection, history)
    if len(found.revisions) > 1:
        raise CommandError(f"{history.name}: SQL needs one current revision, there are {found}")
    output = io.StringIO()
    config = history.config(connection, output)
    (start,) = found.revisions or ("",)
    if history.is_before(revision, found):
        if not start:
            raise CommandError(f"{history.name}: no revision is applied")
        command.downgrade(config, f"{start}:{revision}", sql=True)
    else:
        command.upgrade(config, f"{start}:{revision}" if start else revision, sql=True)
    return f"-- {history.name}: from {start or 'base'} to {revision}\n\n{output.getvalue()}"


def _known(connection: Connection, history: History) -> Applied:
    found = history.applied(connection)
    if found.unknown:
        raise CommandError(
            f"The database has {history.name} revision {', '.join(sorted(found.unknown))}, "
            "which this code does not have: run `bff migrate` of the newer version"
        )
    return found


@asynccontextmanager
async def _engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    engine = make_engine(settings.database_url, migrating=True)
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def _locked(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection that holds the migration lock of the database."""
    if engine.dialect.name == "postgresql":
        async with engine.begin() as guard, engine.connect() as connection:
            await guard.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'"))
            await guard.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            yield connection
        return
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.exec_driver_sql(f"PRAGMA busy_timeout={_LOCK_SECONDS * 1000}")
        await connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection
        await connection.exec_driver_sql("COMMIT")
