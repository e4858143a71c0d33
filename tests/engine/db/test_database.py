"""Sessions, datetimes, and a database that is not available."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bff.db.database import UNAVAILABLE, Database, _to_operational_error, make_engine
from bff.db.tables import Audience, Broadcast
from bff.settings import Settings
from sqlalchemy import NullPool, QueuePool, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import StatementError


def broadcast(**changes: Any) -> Broadcast:
    values: dict[str, Any] = {
        "created_by": "carol",
        "audience": Audience.ALL,
        "topic": "t",
        "event": {},
    }
    return Broadcast(**(values | changes))


async def stored(database: Database, broadcast: Broadcast) -> Broadcast:
    async with database.session() as session:
        session.add(broadcast)
        await session.commit()
    async with database.session() as session:
        found = await session.get(Broadcast, broadcast.id)
    assert found is not None
    return found


async def test_uncommitted_changes_are_rolled_back(database: Database) -> None:
    one = broadcast()
    async with database.session() as session:
        session.add(one)
        await session.flush()
    async with database.session() as session:
        assert await session.get(Broadcast, one.id) is None


async def test_datetimes_are_timezone_aware_and_exact(database: Database) -> None:
    expires_at = datetime(2030, 1, 1, 0, 30, 0, 123456, timezone(timedelta(hours=5, minutes=30)))
    found = await stored(database, broadcast(expires_at=expires_at))
    assert found.expires_at == expires_at
    assert found.expires_at is not None
    assert found.expires_at.utcoffset() == timedelta(0)
    assert abs(found.created_at - datetime.now(UTC)) < timedelta(minutes=1)


async def test_a_datetime_without_a_time_zone_is_refused(database: Database) -> None:
    with pytest.raises(StatementError, match="time zone"):
        await stored(database, broadcast(expires_at=datetime(2030, 1, 1)))


async def test_json_is_stored_unchanged(database: Database) -> None:
    event = {"ü": ["😀", None, 1.5, True, {"a": []}], "nul": "\x00", "big": 2**53}
    assert (await stored(database, broadcast(event=event))).event == event


async def test_concurrent_writers_wait_for_each_other(database: Database) -> None:
    async with asyncio.timeout(60):
        await asyncio.gather(*(stored(database, broadcast()) for _ in range(30)))


async def test_errors_do_not_contain_the_stored_values(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    one = await stored(database, broadcast())
    with pytest.raises(Exception, match="INSERT") as caught:
        await stored(database, broadcast(id=one.id, event={"secret": "internal-secret"}))
    assert "internal-secret" not in f"{caught.value} {caplog.text}"


async def test_a_ping_succeeds(database: Database) -> None:
    await database.ping()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+asyncpg://nobody@127.0.0.1:1/nowhere",
        f"sqlite+aiosqlite:////nowhere-{secrets.token_hex(4)}/db.sqlite3",
    ],
)
async def test_an_unavailable_database_raises_known_errors(settings: Settings, url: str) -> None:
    database = Database(settings.model_copy(update={"database_url": url}))
    with pytest.raises(UNAVAILABLE):
        await database.ping()
    await database.close()


async def test_a_ping_has_a_timeout(settings: Settings) -> None:
    silent = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    url = f"postgresql+asyncpg://nobody@127.0.0.1:{port}/nowhere"
    database = Database(settings.model_copy(update={"database_url": url}))
    async with asyncio.timeout(10):
        with pytest.raises(TimeoutError):
            await database.ping(timeout=0.1)
    await database.close()
    silent.close()


@pytest.mark.skipif("TEST_DATABASE_URL" not in os.environ, reason="only PostgreSQL has sessions")
async def test_a_session_that_the_server_ends_is_an_outage(
    database: Database,
) -> None:
    async with database.engine.connect() as one, database.engine.connect() as other:
        number = await one.scalar(text("SELECT pg_backend_pid()"))
        await other.execute(text(f"SELECT pg_terminate_backend({number})"))
        with pytest.raises(UNAVAILABLE):
            await one.execute(text("SELECT 1"))
    await database.ping()


@pytest.mark.skipif("TEST_DATABASE_URL" not in os.environ, reason="only PostgreSQL has sessions")
async def test_a_session_that_the_server_ended_while_nobody_used_it_is_no_outage(
    settings: Settings, database: Database
) -> None:
    """After a restart of the server the pool holds only such sessions."""
    async with database.engine.connect() as one:
        number = await one.scalar(text("SELECT pg_backend_pid()"))
    administrator = make_engine(settings.database_url, migrating=True)
    async with administrator.connect() as other:
        await other.execute(text(f"SELECT pg_terminate_backend({number}, 10000)"))
    await administrator.dispose()
    await database.ping()


async def test_a_connection_that_ends_as_a_statement_begins_is_an_outage() -> None:
    """asyncpg then reports an operation in progress instead of a closed connection."""
    engine = make_engine("postgresql+asyncpg://nobody@127.0.0.1:1/nowhere")
    dbapi: Any = engine.dialect.dbapi or engine.dialect.import_dbapi()
    error = dbapi.InternalClientError("cannot switch to state 11", None)
    context: Any = SimpleNamespace(
        original_exception=error, statement="SELECT 1", is_disconnect=False
    )
    assert isinstance(_to_operational_error(context), UNAVAILABLE)
    assert context.is_disconnect
    await engine.dispose()


@pytest.mark.skipif("TEST_DATABASE_URL" not in os.environ, reason="SQLite creates its file")
@pytest.mark.parametrize("change", [{"database": "missing"}, {"username": "missing"}])
async def test_a_server_without_the_database_or_the_role_is_an_outage(
    settings: Settings, change: dict[str, str]
) -> None:
    url = make_url(settings.database_url).set(**change)  # type: ignore[arg-type]
    missing = Database(
        settings.model_copy(update={"database_url": url.render_as_string(hide_password=False)})
    )
    with pytest.raises(UNAVAILABLE):
        await missing.ping()
    await missing.close()


@pytest.mark.skipif("TEST_DATABASE_URL" not in os.environ, reason="only PostgreSQL has limits")
async def test_a_server_that_is_full_is_an_outage(settings: Settings, database: Database) -> None:
    role = f"guest_{secrets.token_hex(4)}"
    guest = make_url(settings.database_url).set(username=role, password="guest")
    refused = Database(
        settings.model_copy(update={"database_url": guest.render_as_string(hide_password=False)})
    )
    async with database.engine.begin() as connection:
        await connection.execute(
            text(f"CREATE ROLE {role} LOGIN PASSWORD 'guest' CONNECTION LIMIT 0")
        )
    with pytest.raises(UNAVAILABLE):
        await refused.ping()
    await refused.close()
    async with database.engine.begin() as connection:
        await connection.execute(text(f"DROP ROLE {role}"))


@pytest.mark.parametrize("migrating", [False, True])
async def test_no_connection_waits_without_an_end(tmp_path: Path, migrating: bool) -> None:
    given: dict[str, Any] = {}

    def connect(_dialect: Any, _record: Any, _args: Any, parameters: dict[str, Any]) -> None:
        given.update(parameters)
        raise OSError("seen")

    away = make_engine("postgresql+asyncpg://nobody@127.0.0.1:1/nowhere", migrating=migrating)
    event.listen(away.sync_engine, "do_connect", connect)
    with pytest.raises(OSError, match="seen"):
        async with away.connect():
            pass
    assert given["timeout"] == 10
    assert given.get("command_timeout") == (None if migrating else 10), "a migration may take long"
    file = make_engine(f"sqlite+aiosqlite:///{tmp_path}/own.sqlite3", migrating=migrating)
    async with file.connect() as connection:
        pragmas = [
            await connection.scalar(text(f"PRAGMA {name}"))
            for name in ("busy_timeout", "foreign_keys", "journal_mode")
        ]
    assert pragmas == [10_000, 1, "wal"]
    if not migrating:
        assert isinstance(away.pool, QueuePool)
        assert away.pool.timeout() == 10
    for engine in (away, file):
        assert isinstance(engine.pool, NullPool) is migrating
        await engine.dispose()


@pytest.mark.parametrize(
    ("state", "is_outage"),
    [
        *((state, True) for state in ("08006", "28P01", "3D000", "53300", "57P01")),
        *((state, False) for state in ("23505", "57014", "42501", "", None)),
    ],
)
async def test_only_errors_of_a_server_that_cannot_be_used_are_outages(
    state: str | None, is_outage: bool
) -> None:
    error = OSError("in words")
    if state is not None:
        error.sqlstate = state  # type: ignore[attr-defined]
    context: Any = SimpleNamespace(
        original_exception=error, statement="SELECT 'secret'", is_disconnect=False
    )
    converted = _to_operational_error(context)
    assert isinstance(converted, UNAVAILABLE) is is_outage
    assert not context.is_disconnect
    assert converted is None or converted.hide_parameters


async def test_what_the_user_may_not_do_is_told_in_one_line(database: Database) -> None:
    assert await database.missing_right() == ""
    async with database.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE bff_audit RENAME TO gone"))
    told = await database.missing_right()
    assert told.startswith("SELECT: ")
    assert "bff_audit" in told
    assert "\n" not in told
