"""The relay proves that it hears, and listens anew when it does not."""

from __future__ import annotations

import asyncio

import pytest
from bff.cluster.pubsub_listener import _until_one_ends
from bff.redis.client import RedisClient
from bff.settings import Settings
from bff.testing import until

from tests.engine.cluster.conftest import ClusterMember, StartInstance


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"pubsub_probe_seconds": 0.1})


async def test_it_says_that_it_does_not_hear_before_it_does(
    redis: RedisClient, settings: Settings
) -> None:
    assert ClusterMember(redis, settings).listener.reason == "not listening yet"


async def test_it_hears_once_it_listens(start: StartInstance) -> None:
    a = await start()
    assert a.listener.reason == ""


async def test_a_deaf_subscription_is_noticed_and_replaced(start: StartInstance) -> None:
    a = await start()
    own_channel = a.listener._own_channel
    a.listener._own_channel = "where nobody listens"
    await until(lambda: bool(a.listener.reason))
    await until(lambda: a.metric("bff_pubsub_restarts_total") >= 2)
    assert "heard nothing" in a.listener.reason
    a.listener._own_channel = own_channel
    await until(lambda: a.listener.reason == "")


async def test_an_order_that_fails_does_not_end_the_relay(start: StartInstance) -> None:
    a = await start()
    alice = await a.join("alice")

    def broken(frame: object, limit: int) -> bool:
        raise RuntimeError("a bug")

    alice.transport.write = broken  # type: ignore[method-assign]
    bob = await a.join("bob")
    await a.messenger.to_user("alice", "x", 1)
    await a.messenger.to_user("bob", "x", 1)
    await until(lambda: len(bob.transport.frames) == 2)  # type: ignore[attr-defined]


async def test_a_probe_that_misses_its_cancellation_holds_up_nothing() -> None:
    told = 0

    async def hears_badly() -> None:
        nonlocal told
        while told < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                told += 1

    async def goes_deaf() -> None:
        await asyncio.sleep(0)
        raise TimeoutError("heard nothing")

    async with asyncio.timeout(15):
        with pytest.raises(TimeoutError, match="heard nothing"):
            await _until_one_ends(goes_deaf(), hears_badly())
    assert told == 2
