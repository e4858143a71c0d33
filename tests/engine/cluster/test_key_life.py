"""What a send leaves in Redis lives as long as its use needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from bff.cluster.keys import StreamKeys
from bff.redis.client import RedisClient
from bff.testing import until

from tests.engine.cluster.conftest import StartInstance

Send = Callable[[], Awaitable[Any]]

LONG = 7 * 24 * 3600
RETENTION, DAY = 600, 24 * 3600


async def test_released_keys_live_for_a_minute_more(
    start: StartInstance, redis: RedisClient
) -> None:
    a = await start()
    messenger = a.messenger.idempotent("event/handler", LONG)
    for number in range(60):
        await messenger.to_user("alice", "n", number)
    await messenger.to_topic("tea", 1)
    found = [key async for key in redis.scan_iter(f"{a.messenger._keys.prefix}:*:idem:*")]
    assert len(found) == 61
    assert all([LONG - 60 < await redis.ttl(key) <= LONG for key in found])
    for release in messenger.key_releases():
        release()

    async def are_short() -> bool:
        return all([await redis.ttl(key) <= 60 for key in found])

    await until(are_short)
    again = await a.messenger.idempotent("event/handler", LONG).to_user("alice", "n", 0)
    assert again.id is not None
    assert again.id.endswith("/1")


async def test_keys_of_callers_live_as_long_as_positions(
    start: StartInstance, redis: RedisClient
) -> None:
    a = await start()
    messenger = a.messenger.idempotent("event/handler", LONG)
    await messenger.to_user("alice", "n", 1, idempotency_key="mine")
    key = a.messenger._keys.user("alice").idempotency("mine")
    assert messenger.key_releases() == []
    assert DAY - 60 < await redis.ttl(key) <= DAY


async def test_keys_of_presence_live_for_ten_minutes(
    start: StartInstance, redis: RedisClient
) -> None:
    a = await start()
    await a.join("alice")

    async def announced() -> list[bytes]:
        pattern = f"{a.messenger._keys.prefix}:{{t:presence.alice}}:idem:*"
        return [key async for key in redis.scan_iter(pattern)]

    async def is_announced() -> bool:
        return bool(await announced())

    await until(is_announced)
    (key,) = await announced()
    assert 0 < await redis.ttl(key) <= 600


async def test_without_receivers_a_position_lives_as_long_as_its_stream(
    start: StartInstance, redis: RedisClient
) -> None:
    a = await start()
    keys = a.messenger._keys
    sends: list[tuple[StreamKeys, Send]] = [
        (keys.user("nobody"), lambda: a.messenger.to_user("nobody", "n", 1)),
        (keys.topic("nothing"), lambda: a.messenger.to_topic("nothing", 1)),
    ]
    for stream, send in sends:
        for _ in range(2):
            await send()
            assert await redis.ttl(stream.meta) >= await redis.ttl(stream.stream) > RETENTION - 60
            assert await redis.ttl(stream.meta) <= RETENTION


async def test_a_topic_without_messages_is_forgotten_soon_after_its_last_subscriber(
    start: StartInstance, redis: RedisClient
) -> None:
    a = await start()
    alice = await a.join("alice")
    await a.subscriptions.subscribe(alice, {"tea": None})
    meta = a.messenger._keys.topic("tea").meta
    assert 0 < await redis.ttl(meta) <= RETENTION
    await redis.expire(meta, 5)
    a.context.resync_needed.set()  # compare all live streams now

    async def is_renewed() -> bool:
        return bool(await redis.ttl(meta) > RETENTION - 60)

    await until(is_renewed)
    await a.messenger.to_topic("tea", 1)
    a.context.resync_needed.set()

    async def is_kept() -> bool:
        return bool(await redis.ttl(meta) > DAY - 60)

    await until(is_kept)
    assert await redis.ttl(a.messenger._keys.user("alice").meta) > DAY - 60


async def test_a_position_that_a_client_knows_is_never_shortened(
    start: StartInstance, redis: RedisClient
) -> None:
    a = await start()
    alice = await a.join("alice")
    await a.subscriptions.subscribe(alice, {"tea": None})
    await a.messenger.to_topic("tea", 0)
    await a.leave(alice)
    keys = a.messenger._keys
    sends: list[tuple[StreamKeys, Send]] = [
        (keys.user("alice"), lambda: a.messenger.to_user("alice", "n", 1)),
        (keys.topic("tea"), lambda: a.messenger.to_topic("tea", 1)),
    ]
    for stream, send in sends:
        await send()
        assert await redis.ttl(stream.meta) > DAY - 60
        await redis.expire(stream.meta, RETENTION + 60)
        await send()
        assert await redis.ttl(stream.meta) > RETENTION
        await redis.expire(stream.meta, 5)
        await send()
        assert await redis.ttl(stream.meta) > RETENTION - 60, "not shorter than the message"
