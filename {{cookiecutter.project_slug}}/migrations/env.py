"""Run by Alembic: on the connection it is given, or on one of its own by `DATABASE_URL`."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection
from sqlmodel import AutoString, SQLModel

from app.db.database import make_engine
from app.db.tables import UtcDateTime
from app.settings import Settings


def render(kind: str, item: Any, _context: Any) -> str | Literal[False]:
    """Write our column types as plain ones: a revision must not depend on today's code."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, AutoString):
        return "sa.String()" if item.length is None else f"sa.String(length={item.length})"
    return False


def run(connection: Connection) -> None:
    """Run the revisions that Alembic was asked for."""
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        compare_server_default=True,
        render_as_batch=connection.dialect.name == "sqlite",
        render_item=render,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


async def run_alone() -> None:
    """The same on a connection of our own, for the `alembic` program."""
    engine = make_engine(Settings().database_url, migrating=True)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run)
    finally:
        await engine.dispose()


if (given := context.config.attributes.get("connection")) is not None:
    run(given)
else:
    asyncio.run(run_alone())
