"""The listener detects that its subscription has stalled, and subscribes again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from bff.backoff import backoff_delays
from bff.cluster import pubsub_listener
from bff.cluster.pubsub_listener import _run_until_first_ends
from bff.redis.client import RedisClient
from bff.settings import Settings
from bff.testing import until

from tests.engine.cluster.conftest import ClusterMember, StartInstance


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"pubsub_probe_seconds": 0.1})


async def test_it_reports_that_it_is_not_subscribed_yet(
    redis: RedisClient, settings: Settings
) -> None:
    assert ClusterMember(redis, settings).pubsub_listener.error == "not subscribed yet"


async def test_it_reports_no_error_once_it_is_subscribed(start: StartInstance) -> None:
    a = await start()
    assert a.pubsub_listener.error == ""


async def test_a_stalled_subscription_is_detected_and_replaced(start: StartInstance) -> None:
    a = await start()
    own_channel = a.pubsub_listener._own_channel
    a.pubsub_listener._own_channel = "a channel without subscribers"
    await until(lambda: bool(a.pubsub_listener.error))
    await until(lambda: a.metric("bff_pubsub_restarts_total") >= 2)
    await until(lambda: "nothing received" in a.pubsub_listener.error)
    a.pubsub_listener._own_channel = own_channel
    await until(lambda: a.pubsub_listener.error == "")


async def test_while_redis_is_away_it_waits_longer_and_longer(
    redis: RedisClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def recorded(first: float, longest: float) -> Iterator[float]:
        for delay in backoff_delays(first, longest):
            pauses.append(delay)
            yield delay

    async def refuse(_: object) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(pubsub_listener, "backoff_delays", recorded)

    monkeypatch.setattr("bff.cluster.pubsub_listener.create_pubsub", refuse)
    listener = ClusterMember(redis, settings).pubsub_listener
    task = asyncio.create_task(listener.run())
    await until(lambda: len(pauses) == 4)
    assert pauses[0] >= 0.04
    assert pauses[2] > pauses[0]
    assert "refused" in listener.error
    task.cancel()


async def test_a_message_that_cannot_be_processed_does_not_stop_the_listener(
    start: StartInstance,
) -> None:
    a = await start()
    alice = await a.join("alice")

    def broken(frame: object, limit: int) -> bool:
        raise RuntimeError("a bug")

    alice.transport.write = broken  # type: ignore[method-assign]
    bob = await a.join("bob")
    await a.messenger.to_user("alice", "x", 1)
    await a.messenger.to_user("bob", "x", 1)
    await until(lambda: len(bob.transport.frames) == 2)  # type: ignore[attr-defined]


async def test_a_lost_cancellation_of_the_probe_task_is_repeated() -> None:
    cancelled = 0

    async def loses_cancellation() -> None:
        nonlocal cancelled
        while cancelled < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled += 1

    async def stalls() -> None:
        await asyncio.sleep(0)
        raise TimeoutError("nothing received")

    async with asyncio.timeout(15):
        with pytest.raises(TimeoutError, match="nothing received"):
            await _run_until_first_ends(stalls(), loses_cancellation())
    assert cancelled == 2


@pytest.mark.parametrize(("probes", "is_stalled"), [(0.5, False), (2.5, False), (3.5, True)])
async def test_a_subscription_is_stalled_after_three_missed_probes(
    redis: RedisClient, settings: Settings, probes: float, is_stalled: bool
) -> None:
    slow = settings.model_copy(update={"pubsub_probe_seconds": 100.0})
    listener = ClusterMember(redis, slow).pubsub_listener
    listener._error = ""
    listener._received_at = asyncio.get_running_loop().time() - probes * 100
    assert bool(listener.error) is is_stalled
