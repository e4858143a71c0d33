"""Background tasks have an owner."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import pytest
from bff.tasks import ServiceTasks, TaskSet, cancel_and_wait


async def test_a_task_that_fails_is_logged_and_removed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise ValueError("broken")

    tasks = TaskSet("repairs")
    await asyncio.wait([tasks.start(fail())])
    await asyncio.sleep(0)
    (record,) = caplog.records
    assert (record.message, record.task) == ("background task failed", "repairs")  # type: ignore[attr-defined]
    assert len(tasks) == 0


async def test_stop_waits_and_then_cancels() -> None:
    ended: list[str] = []

    async def work(name: str, release: asyncio.Event) -> None:
        try:
            await release.wait()
            ended.append(name)
        except asyncio.CancelledError:
            ended.append(f"{name} cancelled")
            raise

    tasks, soon, never = TaskSet("work"), asyncio.Event(), asyncio.Event()
    tasks.start(work("first", soon))
    tasks.start(work("second", never))
    soon.set()
    await tasks.stop(wait_seconds=0.05)
    assert sorted(ended) == ["first", "second cancelled"]


async def test_a_stop_that_finds_nothing_to_do_or_only_cancels_says_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks, permanent = TaskSet("work"), ServiceTasks()
    await tasks.stop(wait_seconds=60)
    await permanent.stop()
    task, other = tasks.start(asyncio.sleep(60)), permanent.start("steady", asyncio.sleep(60))
    assert [*tasks] == [task]
    await tasks.stop()
    await permanent.stop()
    await asyncio.sleep(0)
    assert (task.cancelled(), other.cancelled(), len(tasks)) == (True, True, 0)
    assert permanent.alive, "those that start again are alive"
    assert caplog.records == []


@pytest.mark.parametrize("again_seconds", [None, 0.01])
async def test_a_cancellation_that_was_lost_is_repeated(
    monkeypatch: pytest.MonkeyPatch, again_seconds: float | None
) -> None:
    default = 60 if again_seconds else 0.01
    monkeypatch.setattr("bff.tasks._CANCEL_AGAIN_SECONDS", default)
    lost = 0

    async def stubborn() -> None:
        nonlocal lost
        while lost < 2:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                lost += 1
        await asyncio.sleep(60)

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await cancel_and_wait(task, again_seconds=again_seconds)
    assert (task.cancelled(), lost) == (True, 2)


@pytest.mark.parametrize("again_seconds", [0.01, 60])
async def test_the_clean_up_of_a_cancelled_task_waits_only_its_time(again_seconds: float) -> None:
    may_end, left = asyncio.Event(), list[asyncio.Task[None]]()

    async def resist() -> None:
        while not may_end.is_set():
            with suppress(asyncio.CancelledError):
                await may_end.wait()

    async def cleans_up(task: asyncio.Task[None]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            left.extend(await cancel_and_wait(task, again_seconds=again_seconds, seconds=0.05))

    resists = asyncio.create_task(resist())
    owner = asyncio.create_task(cleans_up(resists))
    await asyncio.sleep(0)
    owner.cancel()
    await asyncio.wait([owner], timeout=15)
    assert left == [resists]
    may_end.set()
    await resists


async def test_a_service_task_that_ends_early_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def end() -> None: ...

    tasks = ServiceTasks()
    tasks.start("steady", asyncio.sleep(60))
    assert tasks.alive
    await asyncio.wait([tasks.start("brief", end())])
    await asyncio.sleep(0)
    assert not tasks.alive
    assert [record.levelno for record in caplog.records] == [logging.CRITICAL]
    await tasks.stop()


@pytest.mark.parametrize("kind", ["short", "permanent"])
async def test_a_task_that_ignores_its_cancellation_is_left_behind(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bff.tasks._STOP_SECONDS", 0.05)
    end = asyncio.Event()

    async def stubborn() -> None:
        while not end.is_set():
            with suppress(asyncio.CancelledError):
                await end.wait()

    short, permanent = TaskSet("stubborn"), ServiceTasks()
    is_short = kind == "short"
    task = short.start(stubborn()) if is_short else permanent.start("stubborn", stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await short.stop()
        await permanent.stop()
    (record,) = caplog.records
    assert (record.message, vars(record)["task"]) == (
        "background task did not stop in time",
        "stubborn",
    )
    end.set()
    await asyncio.wait([task])
