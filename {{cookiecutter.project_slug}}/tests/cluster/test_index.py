"""Only an expired lease makes an instance dead; what it left is then removed, and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from app.cluster.index import ConnectionIndex
from app.cluster.redis import RedisClient
from app.errors import Code, Problem
from app.settings import Settings
from tests.cluster.conftest import Instance, StartInstance
from tests.waiting import until


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"lease_seconds": 0.4, "lease_renewal": 0.1})


async def living(index: ConnectionIndex) -> set[str]:
    return {facts.instance for facts in await index.instances()}


async def reap(instance: Instance) -> None:
    await instance.index._reap_all(await instance.index.renew())


async def test_entries_name_who_is_where(start: StartInstance) -> None:
    a, b = await start(), await start()
    first, second = await a.join("alice"), await b.join("alice")
    found = {facts.connection_id: facts for facts in await a.index.connections_of("alice")}
    assert set(found) == {first.id, second.id}
    assert found[second.id].instance == b.id
    await a.leave(first)
    assert [facts.connection_id for facts in await b.index.connections_of("alice")] == [second.id]


async def test_the_dead_are_reaped_and_the_living_stay(start: StartInstance) -> None:
    a, b = await start(), await start()
    await a.join("alice")
    survivor = await b.join("alice")

    async def only_the_survivor() -> bool:
        await reap(b)
        return [f.connection_id for f in await b.index.connections_of("alice")] == [survivor.id]

    await until(only_the_survivor)
    assert await living(b.index) == {b.id}


async def test_an_instance_that_was_away_takes_a_new_generation(start: StartInstance) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    generation = a.index.lease.generation

    async def reaped() -> bool:
        await reap(b)
        return not await b.index.connections_of("alice")

    await until(reaped)
    await a.index.renew()
    assert a.index.lease.generation > generation
    assert [facts.connection_id for facts in await b.index.connections_of("alice")] == [alice.id]


async def test_a_reaper_at_work_harms_no_new_generation(start: StartInstance) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    await asyncio.sleep(0.5)  # the lease must truly run out
    dead = await b.index.renew()
    assert a.index.lease.member in dead
    await a.index.renew()
    await asyncio.gather(b.index._reap_all(dead), b.index._reap_all(dead))
    assert [facts.connection_id for facts in await b.index.connections_of("alice")] == [alice.id]


async def test_a_wiped_redis_is_filled_again(start: StartInstance, redis: RedisClient) -> None:
    a = await start()
    alice = await a.join("alice")
    keys = [key async for key in redis.scan_iter(match=f"{a.messenger._keys.prefix}*")]
    await redis.delete(*keys)
    await a.index.renew()
    assert [facts.connection_id for facts in await a.index.connections_of("alice")] == [alice.id]


async def test_the_limit_counts_only_the_living(
    start: StartInstance, redis: RedisClient, settings: Settings
) -> None:
    a, b = await start(), await start()
    for _ in range(settings.connections_per_user):
        await a.join("alice")
    await a.index.renew()
    with pytest.raises(Problem) as refusal:
        await b.join("alice")
    assert refusal.value.code is Code.RATE_LIMITED
    await asyncio.sleep(0.5)  # the lease of `a` must truly run out
    await b.join("alice")
    assert len(await b.index.connections_of("alice")) == 1


async def test_leaving_for_good_leaves_nothing(start: StartInstance, redis: RedisClient) -> None:
    a, b = await start(), await start()
    await a.join("alice")
    await a.index.leave()
    assert await b.index.connections_of("alice") == []
    assert await living(b.index) == {b.id}


async def test_the_lease_task_outlives_a_redis_in_trouble(
    redis: RedisClient, settings: Settings
) -> None:
    instance = Instance(redis, settings)
    lease = instance.index.lease._script
    calls = 0

    async def flaky(keys: list[str], args: list[Any]) -> object:
        nonlocal calls
        calls += 1
        if calls % 6 < 3:
            raise ConnectionError("away")
        return await lease(keys, args)

    instance.index.lease._script = flaky  # type: ignore[assignment]
    task = asyncio.create_task(instance.index.run())
    try:
        await until(lambda: calls > 12)
        assert not task.done()
        await until(lambda: instance.index.is_living(instance.id))
    finally:
        task.cancel()


async def test_metrics_are_told(start: StartInstance) -> None:
    a = await start()
    await a.index._redis.delete(a.index._keys.leases)
    await a.index.renew()
    value = a.metrics.registry.get_sample_value("bff_lease_losses_total")
    assert value == 1
