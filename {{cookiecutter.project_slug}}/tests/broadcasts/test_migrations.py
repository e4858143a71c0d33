"""The schema: one way up, the same as the tables, whoever starts first."""

from __future__ import annotations

import asyncio
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect
from sqlmodel import SQLModel

from app.db import migrate, tables
from app.db.database import Database, make_engine
from app.settings import Settings


def differences(connection: Connection) -> list[Any]:
    options = {"compare_type": True, "compare_server_default": True}
    context = MigrationContext.configure(connection, opts=options)
    found: list[Any] = compare_metadata(context, tables.Broadcast.metadata)
    return found


async def test_revisions_and_tables_do_not_drift(database: Database) -> None:
    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_a_forgotten_revision_would_be_noticed(settings: Settings) -> None:
    database = Database(settings)
    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) != []
    await database.close()


async def test_upgrading_leads_to_the_newest_revision_and_can_be_repeated(
    settings: Settings,
) -> None:
    assert not await migrate.is_current(settings)
    await migrate.upgrade(settings)
    assert await migrate.is_current(settings)
    await migrate.upgrade(settings)
    assert await migrate.is_current(settings)


async def test_instances_that_start_together_do_not_disturb_each_other(settings: Settings) -> None:
    async with asyncio.timeout(60):
        await asyncio.gather(*(migrate.upgrade(settings) for _ in range(6)))
    assert await migrate.is_current(settings)


async def test_every_revision_can_be_taken_back(settings: Settings) -> None:
    await migrate.upgrade(settings)
    engine = make_engine(settings.database_url, migrating=True)
    async with engine.connect() as connection:
        await connection.run_sync(lambda sync: command.downgrade(migrate.make_config(sync), "base"))
    async with engine.connect() as connection:
        names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
        await connection.rollback()
    await engine.dispose()
    assert names == ["alembic_version"]
    await migrate.upgrade(settings)


def test_there_is_one_newest_revision() -> None:
    assert len(ScriptDirectory.from_config(migrate.make_config()).get_heads()) == 1


def test_constraints_have_names_so_that_revisions_can_change_them() -> None:
    for table in SQLModel.metadata.tables.values():
        assert all(constraint.name for constraint in table.constraints)
        assert all(index.name for index in table.indexes)
