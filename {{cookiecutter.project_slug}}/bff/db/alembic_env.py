"""What `env.py` of both histories runs: Alembic's current command, online or as SQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Literal

from alembic import context
from alembic.config import Config
from sqlalchemy import Connection, MetaData
from sqlalchemy.engine import make_url
from sqlmodel import AutoString

from bff.db.database import VERSION_TABLE, make_engine
from bff.db.tables import EngineTable, UtcDateTime


def run_revisions(
    config: Config, metadata: MetaData, database_url: Callable[[], str] | None = None
) -> None:
    """Run Alembic's current command. Call it from `env.py`.

    `bff migrate` provides the connection. Under plain `alembic` one is opened to `database_url`,
    unless it only prints SQL. Autogenerate ignores the engine's tables unless `metadata` is the
    engine's.
    """
    given: Connection | None = config.attributes.get("connection")
    version_table = config.attributes.get("version_table", "alembic_version")
    if context.is_offline_mode():
        if given is not None:
            _print(given.dialect.name, version_table)
        elif database_url is not None:
            _print(make_url(database_url()).get_backend_name(), version_table)
    elif given is not None:
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


def _print(dialect: str, version_table: str) -> None:
    context.configure(
        dialect_name=dialect,
        dialect_opts={"paramstyle": "named"},
        literal_binds=True,
        version_table=version_table,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


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
