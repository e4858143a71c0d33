"""Who did what is stored, without delaying or failing the act."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from bff.audit import log
from bff.audit.log import AuditLog, AuditOutcome
from bff.db.database import Database
from bff.db.tables import AuditEntry
from bff.errors import Problem
from bff.settings import Settings
from bff.telemetry.metrics import Metrics
from bff.testing import until
from sqlalchemy.exc import OperationalError


@pytest.fixture
def audit(database: Database, settings: Settings, metrics: Metrics) -> AuditLog:
    return AuditLog(database, settings, metrics)


@asynccontextmanager
async def writing(audit: AuditLog) -> AsyncIterator[None]:
    task = asyncio.create_task(audit._write_entries())
    try:
        yield
        await audit.flush()
    finally:
        task.cancel()


def dropped(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("bff_audit_dropped_total")


async def test_entries_are_read_newest_first_page_by_page(audit: AuditLog) -> None:
    async with writing(audit):
        for number in range(5):
            audit.record("act", actor="carol", number=number)
    first = await audit.read(limit=2)
    second = await audit.read(limit=2, before=first[-1].id)
    third = await audit.read(limit=2, before=second[-1].id)
    pages = [[entry.details["number"] for entry in page] for page in (first, second, third)]
    assert pages == [[4, 3], [2, 1], [0]]
    with pytest.raises(Problem):
        await audit.read(before="unknown")


async def test_entries_are_found_by_each_of_their_fields(audit: AuditLog) -> None:
    async with writing(audit):
        audit.record("a", actor="carol", user="alice", session="s-1", address="203.0.113.7")
        audit.record("b", actor="dave", user="bob", outcome=AuditOutcome.REFUSED)

    async def found(**fields: Any) -> list[str]:
        return [entry.action for entry in await audit.read(**fields)]

    assert await found() == ["b", "a"]
    assert await found(action="a") == ["a"]
    assert await found(actor_id="dave") == ["b"]
    assert await found(user_id="alice") == ["a"]
    assert await found(session_id="s-1") == ["a"]
    assert await found(outcome="refused") == ["b"]
    now = datetime.now(UTC)
    assert await found(since=now - timedelta(hours=1), until=now) == ["b", "a"]
    assert await found(since=now) == await found(until=now - timedelta(hours=1)) == []


async def test_a_database_that_is_away_delays_entries_and_loses_none(
    audit: AuditLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    insert, failures = audit._insert, 2
    monkeypatch.setattr(log, "_RETRY_SECONDS", (0.01, 0.01))

    async def fail_twice(rows: Any) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise OperationalError("", None, Exception())
        await insert(rows)

    monkeypatch.setattr(audit, "_insert", fail_twice)
    async with writing(audit):
        audit.record("act", actor="carol")
    assert len(await audit.read()) == 1
    assert caplog.text.count("audit entries not stored, retrying") == 2


async def test_a_database_that_is_away_is_not_asked_again_at_once(
    audit: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def fail(_: Any) -> None:
        nonlocal tries
        tries += 1
        await asyncio.sleep(0)
        raise OperationalError("", None, Exception())

    monkeypatch.setattr(log, "_RETRY_SECONDS", (3600, 3600))
    monkeypatch.setattr(audit, "_insert", fail)
    audit.record("act")
    task = asyncio.create_task(audit._write_entries())
    await until(lambda: tries > 0)
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    assert tries == 1


async def test_a_batch_whose_answer_was_lost_is_stored_once(
    audit: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert, lost = audit._insert, True
    monkeypatch.setattr(log, "_RETRY_SECONDS", (0.01, 0.01))

    async def lose_the_answer(rows: Any) -> None:
        nonlocal lost
        await insert(rows)
        if lost:
            lost = False
            raise OperationalError("", None, Exception())

    monkeypatch.setattr(audit, "_insert", lose_the_answer)
    async with writing(audit):
        audit.record("act")
    assert len(await audit.read()) == 1


async def test_what_waits_is_bounded_and_what_is_dropped_is_counted_and_logged(
    audit: AuditLog,
    metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(audit, "_waiting", asyncio.Queue[AuditEntry](3))
    for _ in range(5):
        audit.record("act")
    assert dropped(metrics) == 2
    assert caplog.messages.count("audit") == 5


@pytest.mark.parametrize("now", [0.0, 6000.0], ids=["when the machine has booted", "later"])
async def test_refused_acts_cannot_fill_the_table(
    audit: AuditLog, metrics: Metrics, monkeypatch: pytest.MonkeyPatch, now: float
) -> None:
    monkeypatch.setattr(log, "time", SimpleNamespace(monotonic=lambda: now))
    for _ in range(200):
        audit.record("sign_in", outcome=AuditOutcome.REFUSED)
    audit.record("sign_in")
    assert audit._waiting.qsize() == 121
    assert dropped(metrics) == 80
    now += 60
    audit.record("sign_in", outcome=AuditOutcome.REFUSED)
    assert audit._waiting.qsize() == 122
    assert dropped(metrics) == 80


async def test_old_entries_are_deleted(
    audit: AuditLog, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_BATCH", 3)
    now, keep = datetime.now(UTC), timedelta(days=settings.audit_retention_days)
    hours = (*range(1, 8), -1)
    async with database.session() as session:
        for number in hours:
            at = now - keep - timedelta(hours=number)
            session.add(AuditEntry(action=f"{number}", outcome="done", address="", at=at))
        await session.commit()
    await audit.delete_old()
    assert [entry.action for entry in await audit.read()] == ["-1"]


async def test_an_entry_that_the_database_refuses_does_not_stop_the_others(
    audit: AuditLog, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = audit._insert
    batches: list[list[str]] = []

    async def refuse(rows: Any) -> None:
        batches.append([row["action"] for row in rows])
        if "bad" in batches[-1]:
            raise ValueError
        await insert(rows)

    monkeypatch.setattr(audit, "_insert", refuse)
    audit.record("bad")
    audit.record("good")
    async with writing(audit):
        pass
    assert batches == [["bad", "good"], ["bad"], ["good"]]
    assert [entry.action for entry in await audit.read()] == ["good"]
    assert dropped(metrics) == 1


async def test_the_stop_says_how_many_entries_were_not_stored(
    audit: AuditLog,
    metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Those of the batch that is being stored, and those that wait."""
    storing = asyncio.Event()

    async def hang(_: Any) -> None:
        storing.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(log, "_BATCH", 2)
    monkeypatch.setattr(log, "_FLUSH_SECONDS", 0.05)
    monkeypatch.setattr(audit, "_insert", hang)
    for _ in range(5):
        audit.record("act")
    async with writing(audit):
        await storing.wait()
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert (record.message, vars(record)["entries"]) == (
        "audit entries not stored at shutdown",
        5,
    )
    assert dropped(metrics) == 5


async def test_old_entries_are_deleted_once_per_period(
    audit: AuditLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    deletions, errors = 0, [OSError("away"), ValueError("odd"), None]

    async def delete() -> None:
        nonlocal deletions
        deletions += 1
        if deletions == len(errors):
            monkeypatch.setattr(log, "_DELETE_SECONDS", 3600)
        if error := errors[deletions - 1]:
            raise error

    monkeypatch.setattr(audit, "delete_old", delete)
    monkeypatch.setattr(log, "_DELETE_SECONDS", 0.02)
    task = asyncio.create_task(audit._delete_periodically())
    await until(lambda: deletions == 3)
    await asyncio.sleep(0.05)
    assert deletions == 3
    assert not task.done()
    task.cancel()
    messages = [one.message for one in caplog.records]
    assert messages == ["old audit entries not deleted"] * 2


async def test_the_end_of_a_time_is_not_part_of_it(audit: AuditLog) -> None:
    async with writing(audit):
        audit.record("act")
    (entry,) = await audit.read()
    assert await audit.read(since=entry.at)
    assert not await audit.read(until=entry.at)


@pytest.mark.parametrize("ran", [False, True])
async def test_nothing_is_missing_at_a_stop_but_what_was_never_taken_up(
    audit: AuditLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ran: bool
) -> None:
    if ran:
        async with writing(audit):
            audit.record("act")
    monkeypatch.setattr(log, "_FLUSH_SECONDS", 0.01)
    audit.record("late")
    await audit.flush()
    (record,) = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert vars(record)["entries"] == 1


async def test_a_warning_counts_the_entries_that_wait_too(
    audit: AuditLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0
    monkeypatch.setattr(log, "_BATCH", 2)
    monkeypatch.setattr(log, "_RETRY_SECONDS", (0.01, 0.01))
    insert = audit._insert

    async def fail_once(rows: Any) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise OperationalError("", None, Exception())
        await insert(rows)

    monkeypatch.setattr(audit, "_insert", fail_once)
    for _ in range(5):
        audit.record("act")
    async with writing(audit):
        pass
    (record,) = [one for one in caplog.records if "retrying" in one.message]
    assert vars(record)["entries"] == 5


async def test_both_tasks_run(audit: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    deleted = asyncio.Event()

    async def delete() -> None:
        deleted.set()

    monkeypatch.setattr(audit, "delete_old", delete)
    task = asyncio.create_task(audit.run())
    audit.record("act")
    await audit.flush()
    assert len(await audit.read()) == 1
    async with asyncio.timeout(15):
        await deleted.wait()
    task.cancel()
