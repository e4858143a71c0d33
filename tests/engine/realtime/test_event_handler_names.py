"""The names of event handlers are known for two weeks after the last version that had them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from types import SimpleNamespace

import pytest
from bff.cluster.keys import Keys
from bff.realtime import event_handler_names
from bff.realtime.event_handler_names import EventHandlerNames
from bff.redis.client import RedisClient
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings
from bff.testing import until

TWO_WEEKS = 14 * 24 * 3600


@pytest.fixture
def names(redis: RedisClient, settings: Settings) -> EventHandlerNames:
    return EventHandlerNames(AutoPipeline(redis), Keys(settings.prefix))


async def test_a_name_is_forgotten_two_weeks_after_it_was_last_recorded(
    names: EventHandlerNames,
    redis: RedisClient,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.time()
    clock = SimpleNamespace(time=lambda: now)
    monkeypatch.setattr(event_handler_names, "time", clock)
    await names.record(["old", "kept"])
    assert TWO_WEEKS - 600 < await redis.ttl(Keys(settings.prefix).event_handlers) <= TWO_WEEKS
    now += TWO_WEEKS - 10
    await names.record(["kept"])
    assert await names.all() == {"old", "kept"}
    now += 10
    await names.record([])
    assert await names.all() == {"kept"}


async def test_names_are_recorded_as_soon_as_redis_is_back_and_then_each_hour(
    names: EventHandlerNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, pauses, failures = names.record, list[float](), 2
    sleep = asyncio.sleep

    async def fail_twice(found: Iterable[str]) -> None:
        nonlocal failures
        if failures:
            failures -= 1
            raise ConnectionError("gone")
        await record(found)

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(names, "record", fail_twice)
    monkeypatch.setattr(event_handler_names, "asyncio", SimpleNamespace(sleep=pause))
    task = asyncio.create_task(names.run({"a", "b"}))
    await until(lambda: len(pauses) > 4)
    task.cancel()
    assert pauses[:4] == [10, 10, 3600, 3600]
    assert await names.all() == {"a", "b"}
