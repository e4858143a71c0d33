"""The migrations of the engine and of the app, which are independent of each other."""

from __future__ import annotations

import asyncio
import io
import os
import re
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from bff.db import alembic_env, migrate
from bff.db import histories as history_states
from bff.db.database import Database, make_engine
from bff.db.histories import ENGINE, History
from bff.db.tables import EngineTable
from bff.settings import Settings
from sqlalchemy import Connection, MetaData, inspect, text
from sqlalchemy.ext.asyncio import AsyncConnection

from scripts.bake import PROJECT, ROOT

_ENV = """
from alembic import context
from sqlalchemy import Column, Integer, MetaData, String, Table

from bff import run_revisions

metadata = MetaData()
Table("broadcast", metadata, Column("id", Integer, primary_key=True), Column("title", String(20)))
run_revisions(context.config, metadata, None)
"""
_FIRST = """
import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table("broadcast", sa.Column("id", sa.Integer(), primary_key=True))


def downgrade() -> None:
    op.drop_table("broadcast")
"""
_SECOND = """
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("broadcast", sa.Column("title", sa.String(20)))


def downgrade() -> None:
    op.drop_column("broadcast", "title")
"""
ENGINE_TABLES = {"bff_audit", "bff_broadcast", "bff_alembic_version"}
APP_TABLES = {"broadcast", "alembic_version"}


@pytest.fixture
def app_history(tmp_path: Path) -> History:
    """An app with two revisions and a table with a name like one of the engine's."""
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    template = ROOT / PROJECT / "migrations" / "script.py.mako"
    (folder / "script.py.mako").write_bytes(template.read_bytes())
    (folder / "env.py").write_text(_ENV)
    (folder / "versions" / "0001_broadcast.py").write_text(_FIRST)
    (folder / "versions" / "0002_title.py").write_text(_SECOND)
    return History("app", folder, "alembic_version")


@pytest.fixture
def histories(app_history: History) -> Sequence[History]:
    return (ENGINE, app_history)


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator[AsyncConnection]:
    engine = make_engine(settings.database_url, migrating=True)
    async with engine.connect() as connection:
        yield connection
    await engine.dispose()


async def tables(settings: Settings) -> set[str]:
    engine = make_engine(settings.database_url, migrating=True)
    async with engine.connect() as connection:
        names = await connection.run_sync(lambda sync: set(inspect(sync).get_table_names()))
    await engine.dispose()
    return names


async def pending(settings: Settings, histories: Sequence[History]) -> str:
    database = Database(settings)
    try:
        return history_states.pending(await history_states.applied(database.engine, histories))
    finally:
        await database.close()


async def states(
    settings: Settings, histories: Sequence[History]
) -> dict[str, history_states.Applied]:
    database = Database(settings)
    try:
        return await history_states.applied(database.engine, histories)
    finally:
        await database.close()


async def run(settings: Settings, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements and commit; the rows of the last one."""
    engine = make_engine(settings.database_url, migrating=True)
    rows: list[tuple[Any, ...]] = []
    async with engine.begin() as connection:
        for statement in statements:
            result = await connection.exec_driver_sql(statement)
            rows = [tuple(row) for row in result] if result.returns_rows else []
    await engine.dispose()
    return rows


def statements(sql: str) -> list[str]:
    """Those of a script, without its comments and transactions."""
    lines = [line for line in sql.splitlines() if not line.startswith("--")]
    parts = (part.strip() for part in "\n".join(lines).split(";"))
    return [part for part in parts if part and not part.startswith(("BEGIN", "COMMIT"))]


def differences(connection: Connection) -> list[Any]:
    options = {
        "compare_type": True,
        "compare_server_default": True,
        "version_table": ENGINE.version_table,
    }
    context = MigrationContext.configure(connection, opts=options)
    found: list[Any] = compare_metadata(context, EngineTable.metadata)
    return found


async def test_the_engines_revisions_match_its_tables(
    settings: Settings, connection: AsyncConnection
) -> None:
    await migrate.upgrade(settings, (ENGINE,))
    assert await connection.run_sync(differences) == []


async def test_a_missing_revision_is_noticed(connection: AsyncConnection) -> None:
    assert await connection.run_sync(differences) != []


async def test_upgrade_applies_both_and_is_idempotent(
    settings: Settings, histories: Sequence[History]
) -> None:
    assert "the engine's and the app's" in await pending(settings, histories)
    for _ in range(2):
        await migrate.upgrade(settings, histories)
        assert await pending(settings, histories) == ""
    assert await tables(settings) == ENGINE_TABLES | APP_TABLES


@pytest.mark.parametrize("before", ["engine", "app at 0001", "app at 0002"])
async def test_upgrade_continues_from_each_earlier_state(
    settings: Settings,
    histories: Sequence[History],
    app_history: History,
    connection: AsyncConnection,
    before: str,
) -> None:
    if before == "engine":
        await migrate.upgrade(settings, (ENGINE,))
    else:
        revision = before.removeprefix("app at ")
        await connection.run_sync(lambda sync: command.upgrade(app_history.config(sync), revision))
        await connection.commit()
    await connection.close()
    assert await pending(settings, histories) != ""
    await migrate.upgrade(settings, histories)
    assert await pending(settings, histories) == ""


async def test_concurrent_upgrades_wait_for_each_other(
    settings: Settings, histories: Sequence[History]
) -> None:
    async with asyncio.timeout(60):
        await asyncio.gather(*(migrate.upgrade(settings, histories) for _ in range(6)))
    assert await pending(settings, histories) == ""


async def test_each_history_can_be_downgraded_without_the_other(
    settings: Settings, histories: Sequence[History], app_history: History
) -> None:
    await migrate.upgrade(settings, histories)
    for history, left in ((app_history, ENGINE_TABLES), (ENGINE, {"bff_alembic_version"})):
        engine = make_engine(settings.database_url, migrating=True)
        async with engine.connect() as connection:
            await connection.run_sync(_downgrade, history)
            await connection.commit()
        await engine.dispose()
        assert await tables(settings) - {"alembic_version"} == left
    await migrate.upgrade(settings, histories)
    assert await pending(settings, histories) == ""


def _downgrade(connection: Connection, history: History) -> None:
    command.downgrade(history.config(connection), "base")


async def test_autogenerate_of_the_app_ignores_the_engines_tables(
    settings: Settings, histories: Sequence[History], app_history: History
) -> None:
    await migrate.upgrade(settings, histories)
    written = await _autogenerate(settings, app_history)
    assert "def upgrade() -> None:" in written
    assert "op." not in written, "the app's schema has no differences"


async def test_autogenerate_of_the_engine_ignores_the_apps_tables(
    settings: Settings, histories: Sequence[History], tmp_path: Path
) -> None:
    await migrate.upgrade(settings, histories)
    copy = tmp_path / "engine"
    (copy / "versions").mkdir(parents=True)
    for name in ("env.py", "script.py.mako", "versions/0001_broadcast.py"):
        (copy / name).write_bytes((ENGINE.folder / name).read_bytes())
    written = await _autogenerate(settings, History("", copy, ENGINE.version_table))
    assert "op." not in written


async def test_autogenerate_writes_types_that_need_none_of_the_engines_code(
    settings: Settings, app_history: History
) -> None:
    columns = ", ".join(
        f'Column("{name}", {kind})'
        for name, kind in (("at", "UtcDateTime"), ("name", "AutoString"), ("code", "AutoString(7)"))
    )
    (app_history.folder / "env.py").write_text(
        "from bff.db.tables import UtcDateTime\nfrom sqlmodel import AutoString\n"
        + _ENV.replace('Column("title", String(20))', columns)
    )
    await migrate.upgrade(settings, (app_history,))
    written = await _autogenerate(settings, app_history)
    for column, kind in (
        ("at", "sa.DateTime(timezone=True)"),
        ("name", "sa.String()"),
        ("code", "sa.String(length=7)"),
        ("title", "sa.VARCHAR(length=20)"),
    ):
        assert f"sa.Column('{column}', {kind}," in written
    assert "bff" not in written


async def test_autogenerate_notices_a_default_of_the_server(
    settings: Settings, app_history: History
) -> None:
    await migrate.upgrade(settings, (app_history,))
    changed = _ENV.replace("String(20)", 'String(20), server_default="untitled"')
    (app_history.folder / "env.py").write_text(changed)
    written = await _autogenerate(settings, app_history)
    assert "server_default='untitled'" in written


async def _autogenerate(settings: Settings, history: History) -> str:
    """The text of the revision that autogenerate writes."""
    before = set((history.folder / "versions").glob("*.py"))
    engine = make_engine(settings.database_url, migrating=True)
    async with engine.connect() as connection:
        await connection.run_sync(
            lambda sync: command.revision(history.config(sync), "difference", autogenerate=True)
        )
    await engine.dispose()
    (written,) = set((history.folder / "versions").glob("*.py")) - before
    return written.read_text()


async def test_a_history_that_is_behind_is_named(
    settings: Settings, histories: Sequence[History], app_history: History
) -> None:
    await migrate.upgrade(settings, (app_history,))
    assert await pending(settings, histories) == (
        "the engine's revisions are not applied: run `bff migrate`"
    )


async def test_a_schema_of_a_later_version_is_not_pending(
    settings: Settings, histories: Sequence[History], connection: AsyncConnection
) -> None:
    """During a rolling update old instances use the new schema."""
    await migrate.upgrade(settings, histories)
    await connection.execute(text("UPDATE bff_alembic_version SET version_num = '9999'"))
    await connection.commit()
    assert await pending(settings, histories) == ""


@pytest.mark.parametrize(("table", "name"), [("bff_", "engine"), ("", "app")])
async def test_a_history_of_a_later_version_is_left_as_it_is_and_the_other_is_migrated(
    settings: Settings, app_history: History, connection: AsyncConnection, table: str, name: str
) -> None:
    """What an old instance does that starts in the middle of an update."""
    histories = {"engine": ENGINE, "app": app_history}
    await migrate.upgrade(settings, (histories[name],))
    await connection.execute(text(f"UPDATE {table}alembic_version SET version_num = '9999'"))
    await connection.commit()
    await connection.close()
    said = await migrate.upgrade(settings, list(histories.values()))
    assert said == f"the {name}'s tables are newer than this code (revision 9999)"
    found = await states(settings, list(histories.values()))
    left = found.pop(name)
    assert left.revisions == {"9999"}
    assert str(left).startswith("9999 (newer than this code, whose head is ")
    assert [state.is_pending for state in found.values()] == [False]
    with pytest.raises(CommandError, match=f"{name} revision 9999, which this code does not have"):
        await migrate.migrate_to(settings, histories[name], "base")


async def test_migrate_to_goes_up_and_down_in_one_history_and_keeps_the_rows(
    settings: Settings, histories: Sequence[History], app_history: History
) -> None:
    await migrate.upgrade(settings, histories)
    await run(settings, "INSERT INTO broadcast (id, title) VALUES (1, 'mine')")
    for target, expected in (
        ("0001", {"0001"}),
        ("+1", {"0002"}),
        ("-1", {"0001"}),
        ("head", {"0002"}),
        ("head", {"0002"}),
    ):
        await migrate.migrate_to(settings, app_history, target)
        assert (await states(settings, histories))["app"].revisions == expected
    assert await run(settings, "SELECT id FROM broadcast") == [(1,)]
    assert (await states(settings, histories))["engine"].is_pending is False
    await migrate.migrate_to(settings, app_history, "base")
    assert await tables(settings) - {"alembic_version"} == ENGINE_TABLES


async def test_migrate_to_an_unknown_revision_changes_nothing(
    settings: Settings, histories: Sequence[History], app_history: History
) -> None:
    await migrate.upgrade(settings, histories)
    with pytest.raises(CommandError, match="7777"):
        await migrate.migrate_to(settings, app_history, "7777")
    assert (await states(settings, histories))["app"].revisions == {"0002"}


async def test_the_printed_sql_does_what_an_upgrade_does(
    settings: Settings, histories: Sequence[History], app_history: History
) -> None:
    printed = await migrate.sql(settings, [(each, migrate.HEADS) for each in histories])
    assert re.findall("^-- (.*)$", printed, re.M)[0].endswith(": from base to heads")
    assert await tables(settings) == set()
    await run(settings, *statements(printed))
    assert await pending(settings, histories) == ""
    assert await tables(settings) == ENGINE_TABLES | APP_TABLES
    await migrate.migrate_to(settings, app_history, "0001")
    pending_only = await migrate.sql(settings, [(app_history, migrate.HEADS)])
    assert "ADD COLUMN title" in pending_only
    assert "CREATE TABLE" not in pending_only


async def test_the_sql_of_a_downgrade_is_printed_too(
    settings: Settings, histories: Sequence[History], app_history: History
) -> None:
    await migrate.upgrade(settings, histories)
    printed = await migrate.sql(settings, [(app_history, "0001")])
    assert printed.startswith("-- app: from 0002 to 0001\n")
    await run(settings, *statements(printed))
    assert (await states(settings, histories))["app"].revisions == {"0001"}


async def test_the_printed_sql_has_the_values_of_its_statements(
    settings: Settings, app_history: History
) -> None:
    statement = (
        'op.execute(sa.insert(sa.table("broadcast", sa.column("id", sa.Integer))).values(id=47))'
    )
    file = app_history.folder / "versions" / "0002_title.py"
    file.write_text(_SECOND.replace("    op.add_column(", f"    {statement}\n    op.add_column("))
    printed = await migrate.sql(settings, [(app_history, migrate.HEADS)])
    await run(settings, *statements(printed))
    assert await run(settings, "SELECT id FROM broadcast") == [(47,)]


async def test_no_sql_is_printed_for_a_database_with_two_newest_revisions(
    settings: Settings, app_history: History
) -> None:
    third = _SECOND.replace("0002", "0003").replace("title", "text")
    (app_history.folder / "versions" / "0003_text.py").write_text(third)
    await migrate.upgrade(settings, (app_history,))
    with pytest.raises(CommandError, match=r"one current revision, there are 0002, 0003 \(head\)"):
        await migrate.sql(settings, [(app_history, "base")])


@pytest.mark.skipif("TEST_DATABASE_URL" in os.environ, reason="PostgreSQL has an advisory lock")
async def test_a_migration_waits_longer_for_another_than_a_request_does(
    settings: Settings, app_history: History
) -> None:
    statement = 'op.execute("CREATE TABLE waits AS SELECT * FROM pragma_busy_timeout")'
    file = app_history.folder / "versions" / "0002_title.py"
    file.write_text(_SECOND.replace("op.add_column(", f"{statement}\n    op.add_column("))
    await migrate.upgrade(settings, (app_history,))
    assert await run(settings, "SELECT * FROM waits") == [(120_000,)]


async def test_tables_of_the_app_and_the_engine_are_separate(
    settings: Settings, histories: Sequence[History], connection: AsyncConnection
) -> None:
    await migrate.upgrade(settings, histories)
    await connection.execute(text("INSERT INTO broadcast (id, title) VALUES (1, 'mine')"))
    assert (await connection.execute(text("SELECT count(*) FROM bff_broadcast"))).scalar() == 0


def test_the_engine_has_one_head_revision() -> None:
    assert len(ScriptDirectory.from_config(ENGINE.config()).get_heads()) == 1


def test_constraints_and_indexes_have_names() -> None:
    for table in EngineTable.metadata.tables.values():
        assert table.name.startswith("bff_")
        assert all(constraint.name for constraint in table.constraints)
        assert all(index.name for index in table.indexes)


def test_plain_alembic_runs_at_the_address_of_env_or_prints_for_it(
    tmp_path: Path, app_history: History
) -> None:
    file = tmp_path / "plain.sqlite3"

    def use(address: str | None) -> None:
        argument = "None" if address is None else f"lambda: {address!r}"
        made = _ENV.replace("metadata, None)", f"metadata, {argument})")
        (app_history.folder / "env.py").write_text(made)

    use("postgresql+asyncpg://127.0.0.1:1/shop")
    output = io.StringIO()
    command.upgrade(app_history.config(None, output), "head", sql=True)
    assert "CREATE TABLE broadcast (\n    id SERIAL NOT NULL" in output.getvalue()
    assert output.getvalue().count("BEGIN;") == 2, "each revision is a transaction"
    use(None)
    command.upgrade(app_history.config(), "head")
    assert not file.exists()
    use(f"sqlite+aiosqlite:///{file}")
    command.upgrade(app_history.config(), "head")
    with closing(sqlite3.connect(file)) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(broadcast)")]
    assert columns == ["id", "title"]


@pytest.mark.parametrize("error", [None, RuntimeError("a revision that fails")])
async def test_plain_alembic_closes_its_connection(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    ran: list[Any] = []
    disposed = 0

    class Engine:
        @asynccontextmanager
        async def connect(self) -> AsyncIterator[Engine]:
            yield self

        async def run_sync(self, run: Any, *arguments: Any) -> None:
            ran.append((run, arguments))
            if error:
                raise error

        async def dispose(self) -> None:
            nonlocal disposed
            disposed += 1

    monkeypatch.setattr(alembic_env, "make_engine", lambda url, migrating: Engine())
    metadata = MetaData()
    with suppress(RuntimeError):
        await alembic_env._run_alone("sqlite://", metadata, "alembic_version")
    assert ran == [(alembic_env._run, (metadata, "alembic_version"))]
    assert disposed == 1
