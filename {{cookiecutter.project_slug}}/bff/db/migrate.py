"""Two histories of one schema: the engine's tables (`bff_…`), and the app's.

Each has its own folder of revisions and its own version table. A lock lets instances that start
together migrate one after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from alembic import command, context
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlmodel import AutoString

from bff.db.database import VERSION_TABLE, make_engine
from bff.db.tables import EngineTable, UtcDateTime
from bff.settings import Settings


@dataclass(frozen=True, slots=True)
class History:
    """A folder of Alembic revisions and its version table."""

    name: str
    folder: Path
    version_table: str

    def config(self, connection: Connection | None = None) -> Config:
        """The configuration of Alembic, without `alembic.ini`."""
        config = Config()
        config.set_main_option("script_location", str(self.folder).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        config.attributes["version_table"] = self.version_table
        return config

    def is_pending(self, connection: Connection) -> bool:
        """Whether a revision of this code has not been applied.

        A schema of a later version is not pending: during a rolling update old instances use it.
        """
        options = {"version_table": self.version_table}
        applied = set(MigrationContext.configure(connection, opts=options).get_current_heads())
        heads, known = _revisions(self)
        return applied <= known and applied != heads


ENGINE: Final = History("the engine's", Path(__file__).with_name("migrations"), VERSION_TABLE)
APP: Final = History("the app's", Path(__file__).parents[2] / "migrations", "alembic_version")
HISTORIES: Final = (ENGINE, APP)
"""In the order of their application."""


@cache
def _revisions(history: History) -> tuple[frozenset[str], frozenset[str]]:
    """The head revisions of this code, and all of its revisions."""
    directory = ScriptDirectory.from_config(history.config())
    known = frozenset(script.revision for script in directory.walk_revisions())
    return frozenset(directory.get_heads()), known


_LOCK: Final = 4_221_907_530_816_204_311
"""The key of the advisory lock: any number that nothing else in the database uses."""
_LOCK_SECONDS: Final = 120
"""How long to wait while another instance migrates."""


async def upgrade(settings: Settings, histories: Sequence[History] = HISTORIES) -> None:
    """Bring both histories to their newest revision, the engine's first.

    Raises:
        sqlalchemy.exc.SQLAlchemyError, OSError: the database is not available, a revision failed,
            or another instance has been migrating for more than two minutes.
    """
    async with _engine(settings) as engine, _locked(engine) as connection:
        for history in histories:
            await connection.run_sync(_upgrade, history)


async def pending(engine: AsyncEngine, histories: Sequence[History] = HISTORIES) -> str:
    """Which histories have revisions that were not applied, as a sentence; empty if none has."""
    async with engine.connect() as connection:
        names = [
            history.name for history in histories if await connection.run_sync(history.is_pending)
        ]
    return f"{' and '.join(names)} revisions are not applied: run `bff migrate`" if names else ""


def run_revisions(
    config: Config, metadata: MetaData, database_url: Callable[[], str] | None = None
) -> None:
    """Run Alembic's current command. Call it from `env.py`.

    `bff migrate` provides the connection. Under plain `alembic` one is opened to `database_url`.
    Autogenerate ignores the engine's tables unless `metadata` is the engine's.
    """
    given: Connection | None = config.attributes.get("connection")
    version_table = config.attributes.get("version_table", "alembic_version")
    if given is not None:
        _run(given, metadata, version_table)
    elif database_url is not None:
        asyncio.run(_run_alone(database_url(), metadata, version_table))


async def _run_alone(database_url: str, metadata: MetaData, version_table: str) -> None:
    engine = make_engine(database_url, migrating=True)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_run, metadata, version_table)
    finally:
        await engine.dispose()


def _run(connection: Connection, metadata: MetaData, version_table: str) -> None:
    own = set(metadata.tables)
    foreign = {VERSION_TABLE, "alembic_version"}
    if metadata is not EngineTable.metadata:
        foreign |= set(EngineTable.metadata.tables)

    def is_own(name: str | None, kind: str, _parents: Any) -> bool:
        if kind != "table":
            return True
        if metadata is EngineTable.metadata:
            return name in own
        return name not in foreign

    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=version_table,
        include_name=is_own,
        compare_server_default=True,
        render_as_batch=connection.dialect.name == "sqlite",
        render_item=_render,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def _render(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Render the engine's column types as SQLAlchemy's: revisions must not depend on its code."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, AutoString):
        return "sa.String()" if item.length is None else f"sa.String(length={item.length})"
    return False


def _upgrade(connection: Connection, history: History) -> None:
    command.upgrade(history.config(connection), "heads")
    if connection.dialect.name == "postgresql":
        # Alembic reads its version table in a transaction. It must end here: the revisions of the
        # next history would run inside it and never be committed.
        connection.commit()


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
