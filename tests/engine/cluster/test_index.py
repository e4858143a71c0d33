"""An instance is dead only when its lease has expired; the reaper removes only its entries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from bff.cluster import lease
from bff.cluster.index import ConnectionDetails, ConnectionIndex
from bff.cluster.lease import InstanceFacts
from bff.connections.connection import Connection
from bff.errors import Code, Problem
from bff.redis.client import RedisClient
from bff.settings import Settings
from bff.telemetry.metrics import CONNECTIONS_REFUSED
from bff.testing import until
from redis.typing import EncodableT

from tests.engine.cluster.conftest import ClusterMember, StartInstance

LONG = 60.0
"""A lease in seconds that does not expire during a test."""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"lease_seconds": LONG, "lease_renewal_seconds": 0.1})


async def expire(instance: ClusterMember) -> None:
    """End its lease, as if it had been stalled for longer."""
    leases = instance.index._keys.leases
    await instance.index._redis.zadd(leases, {instance.index.lease.member: 1})


async def living(index: ConnectionIndex) -> set[str]:
    return {facts.instance for facts in await index.instances()}


async def reap(instance: ClusterMember) -> None:
    await instance.index.reaper.reap_expired(await instance.index.renew())


async def test_entries_name_the_instance_of_each_connection(start: StartInstance) -> None:
    a, b = await start(), await start()
    first, second = await a.join("alice"), await b.join("alice")
    found = {facts.connection_id: facts for facts in await a.index.connections_of("alice")}
    assert set(found) == {first.id, second.id}
    assert found[second.id].instance == b.id
    await a.leave(first)
    assert [facts.connection_id for facts in await b.index.connections_of("alice")] == [second.id]


async def test_dead_instances_are_reaped_and_living_ones_stay(start: StartInstance) -> None:
    a, b = await start(), await start()
    await a.join("alice")
    survivor = await b.join("alice")
    await reap(b)
    assert len(await b.index.connections_of("alice")) == 2
    await expire(a)
    await reap(b)
    assert [f.connection_id for f in await b.index.connections_of("alice")] == [survivor.id]
    assert await living(b.index) == {b.id}


async def test_an_instance_whose_lease_expired_takes_a_new_generation(start: StartInstance) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    generation = a.index.lease.generation
    await expire(a)
    await reap(b)
    assert await b.index.connections_of("alice") == []
    await a.index.renew()
    assert a.index.lease.generation > generation
    assert [facts.connection_id for facts in await b.index.connections_of("alice")] == [alice.id]


async def test_reaping_an_old_generation_keeps_the_entries_of_the_new_one(
    start: StartInstance,
) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    await expire(a)
    dead = await b.index.renew()
    assert a.index.lease.member in dead
    await a.index.renew()
    await asyncio.gather(b.index.reaper.reap_expired(dead), b.index.reaper.reap_expired(dead))
    assert [facts.connection_id for facts in await b.index.connections_of("alice")] == [alice.id]


async def test_an_instance_that_resumes_while_it_is_reaped_has_all_its_entries(
    start: StartInstance, redis: RedisClient
) -> None:
    """It was stalled for longer than its lease, and resumes when half of it is reaped."""
    a, b = await start(), await start()
    joined = [await a.join(f"user-{number}") for number in range(4)]
    await expire(a)
    dead = await b.index.renew()
    old = a.index.lease.member
    reap_one = b.index.reaper._reap
    reaped = 0

    async def half_way(keys: Sequence[str], args: Sequence[EncodableT]) -> object:
        nonlocal reaped
        reaped += 1
        if reaped == 3:
            await a.index.renew()
        return await reap_one(keys, args)

    b.index.reaper._reap = half_way  # type: ignore[assignment]
    await b.index.reaper.reap_expired(dead)
    assert reaped == 4
    for connection in joined:
        found = await b.index.connections_of(connection.user_id)
        assert [facts.connection_id for facts in found] == [connection.id]
    keys = a.index._keys
    held = await redis.smembers(keys.users_of(a.index.lease.member))
    assert held == {connection.user_id.encode() for connection in joined}
    assert not await redis.exists(keys.users_of(old))


async def test_a_connection_that_joins_during_a_change_of_generation_belongs_to_the_new_one(
    start: StartInstance, redis: RedisClient
) -> None:
    """Its entry may reach Redis after all other entries were written again."""
    a, b = await start(), await start()
    register = a.index._register

    async def renewed(keys: Sequence[str], args: Sequence[EncodableT]) -> object:
        await redis.delete(a.index._keys.leases)
        await a.index.renew()
        return await register(keys, args)

    def late(keys: Sequence[str], args: Sequence[EncodableT]) -> asyncio.Future[Any]:
        return asyncio.ensure_future(renewed(keys, args))

    a.index._register = late  # type: ignore[assignment]
    alice = await a.join("alice")
    mark = a.index.lease.member.encode()
    assert mark.endswith(b"#2")
    entries = await a.pipeline.read_hash(a.index._keys.connections("alice"))
    assert [entry.partition(b" ")[0] for entry in entries.values()] == [mark]
    assert await redis.smembers(a.index._keys.users_of(mark.decode())) == {b"alice"}
    await b.index.remove_dead_entries("alice")
    assert [facts.connection_id for facts in await b.index.connections_of("alice")] == [alice.id]


@pytest.mark.parametrize("lost", ["reaped by another instance", "lost by Redis", "not yet taken"])
async def test_no_list_of_users_outlives_a_lease_that_no_reaper_finds(
    start: StartInstance, redis: RedisClient, settings: Settings, lost: str
) -> None:
    """Users may connect before the instance notices that it has no lease."""
    a, b = await start(), await start()
    if lost == "not yet taken":
        a = ClusterMember(redis, settings)
    elif lost == "lost by Redis":
        await redis.delete(a.index._keys.leases)
    else:
        await expire(a)
        await reap(b)
    former = a.index._users_key
    alice = await a.join("alice")
    assert await redis.exists(former)
    running = asyncio.create_task(a.index.run())

    async def is_gone() -> bool:
        return not await redis.exists(former)

    await until(is_gone)
    assert await redis.smembers(a.index._users_key) == {b"alice"}
    assert [facts.connection_id for facts in await b.index.connections_of("alice")] == [alice.id]
    running.cancel()
    await a.pipeline.close()


async def test_an_instance_that_stops_removes_the_lists_of_all_its_leases(
    start: StartInstance, redis: RedisClient
) -> None:
    a = await start()
    await redis.delete(a.index._keys.leases)
    await a.join("alice")
    await a.index.renew()
    await a.index.release()
    assert [key async for key in redis.scan_iter(f"{a.index._keys.prefix}:*:users")] == []


async def test_concurrent_reapers_remove_each_entry_once_and_nothing_else(
    start: StartInstance, redis: RedisClient
) -> None:
    a, b, c = await start(), await start(), await start()
    dead = [await a.join(f"user-{number % 3}") for number in range(9)]
    await expire(a)
    await b.index.renew()
    stays = [await b.join(f"user-{number}") for number in range(3)]
    await asyncio.gather(reap(b), reap(c), reap(b), reap(c))
    found = [
        facts.connection_id
        for number in range(3)
        for facts in await c.index.connections_of(f"user-{number}")
    ]
    assert found == [connection.id for connection in stays]
    counts = [each.metrics.registry.get_sample_value("bff_entries_reaped_total") for each in (b, c)]
    assert sum(count or 0 for count in counts) == len(dead)
    member = a.index.lease.member
    assert await redis.zscore(a.index._keys.leases, member) is None
    assert not await redis.hexists(a.index._keys.lease_facts, member)


@pytest.mark.parametrize("hours", [-24, 24])
async def test_the_clock_of_an_instance_does_not_matter(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    """Leases use the clock of Redis."""
    real_time = time.time
    clock = SimpleNamespace(time=lambda: real_time() + hours * 3600)
    monkeypatch.setattr(lease, "time", clock)
    wrong = await start()
    monkeypatch.undo()
    alice = await wrong.join("alice")
    b = await start()

    monkeypatch.setattr(lease, "time", clock)
    for _ in range(3):
        assert wrong.index.lease.member not in await b.index.renew()
        assert b.index.lease.member not in await wrong.index.renew()
        assert await living(wrong.index) == await living(b.index) == {wrong.id, b.id}
    assert [facts.connection_id for facts in await b.index.connections_of("alice")] == [alice.id]

    wrong.index.lease._seconds = 0.1
    await wrong.index.renew()

    async def is_dead() -> bool:
        return wrong.index.lease.member in await b.index.renew()

    await until(is_dead)
    assert await living(b.index) == {b.id}


async def test_a_new_instance_on_the_host_of_a_dead_one_is_not_mistaken_for_it(
    start: StartInstance,
) -> None:
    """An orchestrator may give the new instance the same host name."""
    dead, b = await start(), await start()
    await dead.join("alice")
    successor = await start()
    alice = await successor.join("alice")
    hosts = {facts.instance: facts.host for facts in await b.index.instances()}
    assert hosts[dead.id] == hosts[successor.id]
    await expire(dead)
    await reap(b)
    assert [f.connection_id for f in await b.index.connections_of("alice")] == [alice.id]
    assert await living(b.index) == {b.id, successor.id}


async def test_a_lease_of_another_redis_process_is_not_renewed(
    start: StartInstance,
) -> None:
    """A promoted replica may lack the entries that were written last."""
    a = await start()
    alice = await a.join("alice")
    generation = a.index.lease.generation
    await a.index._redis.delete(a.index._keys.connections("alice"))
    a.index.lease._run_id = b"run id of the old master"
    await a.index.renew()
    assert a.index.lease.generation > generation
    assert [facts.connection_id for facts in await a.index.connections_of("alice")] == [alice.id]


async def test_entries_are_written_again_after_redis_lost_its_data(
    start: StartInstance, redis: RedisClient
) -> None:
    a = await start()
    alice = await a.join("alice")
    keys = [key async for key in redis.scan_iter(match=f"{a.messenger._keys.prefix}*")]
    await redis.delete(*keys)
    await a.index.renew()
    assert [facts.connection_id for facts in await a.index.connections_of("alice")] == [alice.id]


async def test_a_new_generation_that_was_written_in_part_is_written_again(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    a.index.lease._run_id = b"run id of another Redis"
    write = a.index._write

    async def fail(connections: Sequence[Connection]) -> None:
        raise ConnectionError

    monkeypatch.setattr(a.index, "_write", fail)
    with pytest.raises(ConnectionError):
        await a.index.renew()
    monkeypatch.setattr(a.index, "_write", write)
    await a.index.renew()
    await a.index.reaper.reap(f"{a.id}#1")
    assert [facts.connection_id for facts in await b.index.connections_of("alice")] == [alice.id]


async def test_a_user_that_reconnects_while_the_removal_fails_can_still_be_reaped(
    start: StartInstance, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await start()
    alice = await a.join("alice")
    a.registry.unregister(alice)
    a.index.unregister(alice)
    with monkeypatch.context() as patched:

        @asynccontextmanager
        async def interrupted(**options: Any) -> AsyncIterator[Any]:
            patched.undo()
            async with redis.pipeline(**options) as pipeline:

                async def execute() -> None:
                    await a.join("alice")
                    await pipeline.execute()
                    raise ConnectionError

                yield SimpleNamespace(hdel=pipeline.hdel, srem=pipeline.srem, execute=execute)

        patched.setattr(redis, "pipeline", interrupted)
        with pytest.raises(ConnectionError):
            await a.index.remove_unregistered()
    await a.index.remove_unregistered()
    assert await redis.smembers(a.index._users_key) == {b"alice"}


def test_facts_of_a_later_version_are_parsed() -> None:
    """During a rolling update instances of both versions report."""
    facts = InstanceFacts("i", "host", 1.0, 2, 3)
    assert InstanceFacts.of(orjson.dumps(asdict(facts) | {"new": True})) == facts


async def test_the_connection_limit_ignores_dead_instances(
    start: StartInstance, redis: RedisClient, settings: Settings
) -> None:
    a, b = await start(), await start()
    for _ in range(settings.max_connections_per_user):
        await a.join("alice")
    with pytest.raises(Problem) as refusal:
        await b.join("alice")
    assert refusal.value.code is Code.RATE_LIMITED
    a.index.lease._seconds = 0.1
    await a.index.renew()

    async def only_b_lives() -> bool:
        return await living(b.index) == {b.id}

    await until(only_b_lives)
    await b.join("alice")
    assert len(await b.index.connections_of("alice")) == 1


async def test_release_removes_all_entries(start: StartInstance, redis: RedisClient) -> None:
    a, b = await start(), await start()
    await a.join("alice")
    await a.index.release()
    assert await b.index.connections_of("alice") == []
    assert await living(b.index) == {b.id}


async def test_release_removes_what_was_waiting_although_redis_has_lost_the_list_of_users(
    start: StartInstance, redis: RedisClient
) -> None:
    """Redis was away when the connection was closed, a node came back empty, the instance stops."""
    a = await start()
    connection = await a.join("alice")
    a.index.unregister(connection)
    keys = a.index._keys
    await redis.delete(keys.users_of(a.index.lease.member), keys.leases)
    await a.index.release()
    assert not await redis.exists(keys.connections("alice"))


async def test_the_lease_is_renewed_after_redis_was_unavailable(
    redis: RedisClient, settings: Settings
) -> None:
    instance = ClusterMember(redis, settings)
    lease = instance.index.lease._script
    calls = 0

    async def flaky(keys: list[str], args: list[Any]) -> object:
        nonlocal calls
        calls += 1
        if calls % 6 < 3:
            raise ConnectionError("unavailable")
        return await lease(keys, args)

    instance.index.lease._script = flaky  # type: ignore[assignment]
    task = asyncio.create_task(instance.index.run())
    try:
        await until(lambda: calls > 12)
        assert not task.done()
        await until(lambda: instance.index.is_living(instance.id))
    finally:
        task.cancel()


async def test_lost_leases_are_counted(start: StartInstance) -> None:
    a = await start()
    await a.index._redis.delete(a.index._keys.leases)
    a.index.lease_error = "Redis is away"
    await a.index.renew()
    assert a.index.lease_error == ""
    value = a.metrics.registry.get_sample_value("bff_lease_losses_total")
    assert value == 1


async def test_who_is_restored_is_announced_as_present_again(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis has lost their entries: for others they were away."""
    a = await start()
    alice, bob = await a.join("alice"), await a.join("bob")
    announced: list[str] = []

    async def on_connected(users: Any) -> None:
        announced.extend(users)

    monkeypatch.setattr(a.index._presence, "on_connected", on_connected)
    bob.close(4001)
    await a.index.restore([alice, bob])
    assert announced == ["alice"]


async def test_a_user_who_connects_too_often_is_refused_and_logged_once(
    start: StartInstance, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bff.settings._MIN_CONNECTS_PER_MINUTE", 3)
    a = await start(max_connections_per_user=1)
    refused = float(CONNECTIONS_REFUSED.labels("user")._value.get())
    for _ in range(6):
        await a.leave(await a.join("alice"))
    for _ in range(3):
        with pytest.raises(Problem) as caught:
            await a.join("alice")
        assert caught.value.code is Code.RATE_LIMITED
        assert 0 < (caught.value.as_error()["retry_after_ms"] or 0) <= 60_000
    await a.join("bob")
    assert float(CONNECTIONS_REFUSED.labels("user")._value.get()) == refused + 3
    await a.index.remove_unregistered()
    assert await a.index._redis.smembers(a.index._users_key) == {b"bob"}
    lines = [vars(one) for one in caplog.records if "connects too often" in one.message]
    assert [line["user"] for line in lines] == ["alice"]


async def test_streams_are_compared_after_a_failed_renewal_although_another_one_came_between(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await start(lease_renewal_seconds=0.1)
    renew, failures = a.index.lease.renew, ["Redis is away"]

    async def fail_once() -> bool:
        if failures:
            raise ConnectionError(failures.pop())
        return await renew()

    monkeypatch.setattr(a.index.lease, "renew", fail_once)
    a.index._resync_needed.clear()
    task = asyncio.create_task(a.index._renew_periodically())
    await until(lambda: bool(a.index.lease_error))
    await a.index.instances()
    assert not a.index.lease_error
    async with asyncio.timeout(15):
        await a.index._resync_needed.wait()
    a.index._resync_needed = asyncio.Event()
    for _ in range(2):
        a.index.lease_error = "until the next renewal"
        await until(lambda: not a.index.lease_error)
    assert not a.index._resync_needed.is_set(), "once is enough"
    task.cancel()


async def test_the_lease_is_renewed_while_dead_instances_are_reaped(
    start: StartInstance, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that takes, and also if it fails: else a crash would make others lose theirs."""
    a, b = await start(), await start()
    await expire(b)
    reaped: list[tuple[str, ...]] = []
    outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def reap_expired(members: tuple[str, ...]) -> None:
        reaped.append(members)
        await asyncio.shield(outcome)

    monkeypatch.setattr(a.index.reaper, "reap_expired", reap_expired)
    task = asyncio.create_task(a.index.run())
    await until(lambda: bool(reaped))
    for _ in range(2):
        a.index.lease_error = "until the next renewal"
        await until(lambda: not a.index.lease_error)
    assert reaped == [(b.index.lease.member,)]
    outcome.set_exception(ConnectionError("a node is down"))
    await until(lambda: len(reaped) > 1)
    assert not a.index.lease_error
    assert "could not remove entries of dead instances, retrying" in caplog.messages
    task.cancel()


async def test_a_dead_instance_is_reaped_once_however_long_that_takes(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await start(), await start()
    await expire(b)
    reaped: list[tuple[str, ...]] = []
    may_go_on = asyncio.Event()
    reap_expired = a.index.reaper.reap_expired

    async def slowly(members: tuple[str, ...]) -> None:
        reaped.append(members)
        await may_go_on.wait()
        await reap_expired(members)

    monkeypatch.setattr(a.index.reaper, "reap_expired", slowly)
    task = asyncio.create_task(a.index.run())
    await until(lambda: bool(reaped))
    for last in (False, True):  # a renewal while it is reaped, and one after it
        a.index.lease_error = "until the next renewal"
        await until(lambda: not a.index.lease_error)
        if not last:
            may_go_on.set()
            await until(lambda: not a.index._has_dead.is_set())
    assert [member for members in reaped for member in members] == [b.index.lease.member]
    task.cancel()


async def test_a_lease_outlives_the_restoring_of_all_entries(
    start: StartInstance, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a slow Redis would let the new lease expire too, and so on."""
    monkeypatch.setattr("bff.cluster.index._BATCH", 2)
    a = await start()
    for number in range(8):
        await a.join(f"user-{number}")
    write, leases = a.index._write, a.index._keys.leases

    async def slow_write(connections: Sequence[Connection]) -> None:
        await write(connections)
        await redis.zincrby(leases, -0.6 * LONG * 1000, a.index.lease.member)

    monkeypatch.setattr(a.index, "_write", slow_write)
    await expire(a)
    await a.index.renew()
    assert a.index.lease.generation == 2
    assert await a.index.lease.renew()


async def test_any_number_of_entries_is_restored_and_removed(
    start: StartInstance, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bff.cluster.index._BATCH", 2)
    a, b = await start(), await start()
    joined = [await a.join(f"user-{number}") for number in range(5)]
    users = [one.user_id for one in joined]
    stays = await a.join("user-0")

    async def found() -> list[list[str]]:
        every = (await b.presence.of(users)).values()
        return [[details.connection_id for details in one] for one in every]

    await redis.delete(*map(a.index._keys.connections, users), a.index._users_key)
    await a.index.restore(a.registry)
    assert [one[0] for one in await found()] == [one.id for one in joined]
    assert await redis.smembers(a.index._users_key) == {one.encode() for one in users}
    for connection in joined:
        a.subscriptions.leave(connection)
    await a.index.remove_unregistered()
    assert await found() == [[stays.id], [], [], [], []]
    assert await redis.smembers(a.index._users_key) == {b"user-0"}
    assert a.context.users_to_compare >= set(users[1:]), "a late write may restore an entry"


async def test_any_number_of_entries_is_reaped(
    start: StartInstance, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bff.cluster.reaper._BATCH", 2)
    a, b = await start(), await start()
    users = [(await b.join(f"user-{number}")).user_id for number in range(5)]
    await expire(b)
    await reap(a)
    assert [await redis.exists(a.index._keys.connections(user)) for user in users] == [0] * 5
    assert a.metric("bff_entries_reaped_total") == 5


async def test_a_connect_fails_if_its_user_could_not_be_listed_for_the_reaper(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cluster the list is on another node than the entry."""
    a = await start()
    submit = a.pipeline.submit

    def refuse(*command: Any, **options: Any) -> asyncio.Future[Any]:
        if command[:2] == ("SADD", a.index._users_key):
            refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            refused.set_exception(ConnectionError("the node is away"))
            return refused
        return submit(*command, **options)

    monkeypatch.setattr(a.pipeline, "submit", refuse)
    with pytest.raises(ConnectionError, match="the node is away"):
        await a.join("alice")


async def test_entries_of_several_nodes_are_changed_without_a_transaction(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster refuses a transaction whose keys have several slots."""
    a = await start()
    connections = [await a.join(user_id) for user_id in ("alice", "bob")]
    pipeline, transactions = a.index._redis.pipeline, []

    def recorded(*, transaction: bool) -> Any:
        transactions.append(transaction)
        return pipeline(transaction=transaction)

    monkeypatch.setattr(a.index._redis, "pipeline", recorded)
    await a.index.restore(connections)
    for connection in connections:
        a.subscriptions.leave(connection)
    await a.index.remove_unregistered()
    assert set(transactions) == {False}


async def test_a_connection_that_closes_while_its_entry_is_restored_has_none(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    write = a.index._write

    async def close_first(connections: Sequence[Connection]) -> None:
        await a.leave(alice)
        await write(connections)

    monkeypatch.setattr(a.index, "_write", close_first)
    await a.index.restore([alice])
    await a.index.remove_unregistered()
    assert await b.index.connections_of("alice") == []


async def test_entries_of_an_expired_lease_are_not_reported_although_nobody_has_reaped_them(
    start: StartInstance,
) -> None:
    a, b = await start(), await start()
    await a.join("alice")
    here = await b.join("alice")
    await expire(a)
    await b.index.renew()
    assert [one.connection_id for one in await b.index.connections_of("alice")] == [here.id]


async def test_an_entry_of_another_version_may_lack_details(
    start: StartInstance, redis: RedisClient
) -> None:
    a, b = await start(), await start()
    key, member = a.index._keys.connections("alice"), a.index.lease.member
    await redis.hset(key, f"{a.id}.1", f'{member} {{"session_id":null,"new":1}}')
    await redis.hset(key, f"{a.id}.2", f'{member} {{"session_id":"s-1"}}')
    assert await b.index.connections_of("alice") == [
        ConnectionDetails(f"{a.id}.1", a.id, 0.0, "", "", ""),
        ConnectionDetails(f"{a.id}.2", a.id, 0.0, "", "", "s-1"),
    ]


async def test_connections_of_all_instances_are_counted(start: StartInstance) -> None:
    a, b = await start(), await start()
    first = await a.join("alice")
    await a.join("alice")
    await b.join("bob")
    await b.index.renew()
    await a.index.renew()
    assert a.index.count() == 3
    await a.leave(first)
    assert a.index.count() == 2
    assert {facts.instance: (facts.connections, facts.users) for facts in a.index.lease.living} == {
        a.id: (2, 1),
        b.id: (1, 1),
    }


async def test_entries_of_living_instances_cost_one_read(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await start(), await start()
    here, there = await a.join("alice"), await b.join("alice")
    await a.index.renew()
    readers: list[object] = []
    read = a.pipeline.read_hash

    async def recorded(key: str) -> dict[bytes, bytes]:
        readers.append(asyncio.current_task())
        return await read(key)

    monkeypatch.setattr(a.pipeline, "read_hash", recorded)
    found = await a.index.connections_of("alice")
    assert {details.connection_id for details in found} == {here.id, there.id}
    assert readers.count(asyncio.current_task()) == 1, "presence reads entries too"


async def test_entries_that_could_not_be_removed_are_not_tried_again_at_once(
    start: StartInstance, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await start(lease_renewal_seconds=3600)
    attempts = 0

    async def fail() -> None:
        nonlocal attempts
        attempts += 1
        raise ConnectionError("Redis is away")

    monkeypatch.setattr(a.index, "remove_unregistered", fail)
    task = asyncio.create_task(a.index.run())
    a.subscriptions.leave(await a.join("alice"))
    await until(lambda: attempts > 0)
    for _ in range(10):
        await redis.ping()
    task.cancel()
    assert attempts == 1


async def test_entries_that_could_not_be_removed_are_removed_when_redis_is_back(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await start(lease_renewal_seconds=0.05)
    alice = await a.join("alice")
    remove, failures = a.index.remove_unregistered, ["Redis is away", "still away"]

    async def fail_first() -> None:
        if failures:
            raise ConnectionError(failures.pop())
        await remove()

    monkeypatch.setattr(a.index, "remove_unregistered", fail_first)
    task = asyncio.create_task(a.index.run())
    a.subscriptions.leave(alice)

    async def is_removed() -> bool:
        return not await a.index._redis.exists(a.index._keys.connections("alice"))

    await until(is_removed)
    assert not task.done()
    task.cancel()
