"""The index and the connections of an instance are compared both ways and repaired."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from bff.cluster.index import ConnectionIndex
from bff.cluster.keys import Keys
from bff.connections.connection import Connection, new_connection_id
from bff.redis.client import RedisClient, create_client
from bff.settings import Settings
from bff.testing import until
from bff.testing.plugin import SECRET
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st

from tests.engine.cluster.conftest import ClusterMember, StartInstance, running
from tests.engine.doubles import RecordingTransport

FACTS = b"{}"


@pytest.fixture
def keys(settings: Settings) -> Keys:
    return Keys(settings.prefix)


async def ids_of(index: ConnectionIndex, user_id: str) -> set[str]:
    return {facts.connection_id for facts in await index.connections_of(user_id)}


async def fields_of(redis: RedisClient, keys: Keys, user_id: str) -> set[str]:
    return texts(await redis.hkeys(keys.connections(user_id)))


def texts(values: Iterable[Any]) -> set[str]:
    return {value.decode() for value in values}


def repairs(instance: ClusterMember, repair: str) -> float:
    labels = {"repair": repair}
    return instance.metrics.registry.get_sample_value("bff_index_repairs_total", labels) or 0.0


@asynccontextmanager
async def comparing(instance: ClusterMember) -> AsyncIterator[None]:
    """The instance renews its lease and compares its entries, as long as the block lasts."""
    task = asyncio.create_task(instance.index.run())
    try:
        yield
    finally:
        task.cancel()


async def test_a_connection_without_an_entry_gets_it_back(
    start: StartInstance, redis: RedisClient, keys: Keys
) -> None:
    a, b = await start(), await start()
    first, second = await a.join("alice"), await a.join("alice")
    other = await b.join("alice")
    await redis.hdel(keys.connections("alice"), first.id, other.id)
    await redis.delete(keys.users_of(a.index.lease.member))
    await a.index.reconciler.compare(["alice"])
    assert await ids_of(b.index, "alice") == {first.id, second.id}
    assert await redis.smembers(keys.users_of(a.index.lease.member)) == {b"alice"}
    await b.index.reconciler.compare(["alice"])
    assert await ids_of(a.index, "alice") == {first.id, second.id, other.id}
    assert repairs(a, "restored") == repairs(b, "restored") == 1


async def test_an_entry_without_a_connection_is_removed(
    start: StartInstance, redis: RedisClient, keys: Keys
) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    foreign = await b.join("alice")
    for member in (a.index.lease.member, f"{a.id}#0"):
        entry = member.encode() + b" " + FACTS
        await redis.hset(keys.connections("alice"), new_connection_id(a.id), entry)
    await a.index.reconciler.compare(["alice"])
    assert await fields_of(redis, keys, "alice") == {alice.id, foreign.id}
    # The other instance may have removed the entry that no lease covers.
    assert repairs(a, "removed") in (1, 2)


async def test_the_comparison_runs_within_a_lease(
    redis: RedisClient, keys: Keys, settings: Settings
) -> None:
    brief = {"lease_seconds": 0.2, "lease_renewal_seconds": 0.1}
    instance = ClusterMember(redis, settings.model_copy(update=brief))
    async with running(instance), comparing(instance):
        alice = await instance.join("alice")
        await redis.delete(keys.connections("alice"))

        async def is_back() -> bool:
            return await fields_of(redis, keys, "alice") == {alice.id}

        await until(is_back)


async def test_a_late_write_of_a_user_who_has_left_is_removed(
    redis: RedisClient, keys: Keys, settings: Settings
) -> None:
    """A command that timed out may be executed later than the removal that followed it."""
    brief = {"lease_seconds": 0.2, "lease_renewal_seconds": 0.1}
    instance = ClusterMember(redis, settings.model_copy(update=brief))
    async with running(instance):
        alice = await instance.join("alice")
        await instance.leave(alice)
        await redis.hset(keys.connections("alice"), alice.id, instance.index._entry(alice))
        async with comparing(instance):

            async def is_gone() -> bool:
                return not await fields_of(redis, keys, "alice")

            await until(is_gone)


async def test_an_idle_stale_entry_of_a_user_without_connections_is_found(
    redis: RedisClient, keys: Keys, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No message is sent to the user, and nobody reads the entries. The users are on many pages."""
    monkeypatch.setattr("bff.cluster.reconciler._BATCH", 4)
    brief = {"lease_seconds": 0.2, "lease_renewal_seconds": 0.1}
    instance = ClusterMember(redis, settings.model_copy(update=brief))
    async with running(instance):
        joined = [await instance.join(f"user-{number}") for number in range(40)]
        member = instance.index.lease.member
        await redis.hset(
            keys.connections("ghost"), new_connection_id(instance.id), f"{member} {{}}"
        )
        await redis.sadd(keys.users_of(member), "ghost", "nobody")
        async with comparing(instance):

            async def is_as_the_connections() -> bool:
                users = texts(await redis.smembers(keys.users_of(instance.index.lease.member)))
                ghosts = await fields_of(redis, keys, "ghost")
                return users == {one.user_id for one in joined} and not ghosts

            await until(is_as_the_connections)
            assert await fields_of(redis, keys, "user-7") == {joined[7].id}


@pytest.mark.parametrize("use", ["message", "presence"])
async def test_a_stale_entry_of_a_user_without_connections_is_found_when_it_is_used(
    start: StartInstance, redis: RedisClient, keys: Keys, use: str
) -> None:
    a, b = await start(), await start()
    entry = a.index.lease.member.encode() + b" " + FACTS
    await redis.hset(keys.connections("ghost"), new_connection_id(a.id), entry)
    if use == "message":
        await b.messenger.to_user("ghost", "news", 1)
    else:
        assert await ids_of(a.index, "ghost") == set()
    await until(lambda: "ghost" in a.context.users_to_compare)
    await a.index.reconciler.compare(["ghost"])
    assert not await fields_of(redis, keys, "ghost")


async def test_entries_that_no_lease_covers_are_removed_when_they_are_read(
    start: StartInstance, redis: RedisClient, keys: Keys
) -> None:
    a = await start()
    alice = await a.join("alice")
    await redis.hset(keys.connections("alice"), "unknown.1", b"unknown#1 " + FACTS)
    assert await ids_of(a.index, "alice") == {alice.id}
    assert await fields_of(redis, keys, "alice") == {alice.id}


async def test_a_connection_that_is_being_admitted_is_neither_written_nor_removed(
    start: StartInstance, redis: RedisClient, keys: Keys
) -> None:
    """Its entry counts towards the limit, so only `register` may add it."""
    a = await start()
    transport = RecordingTransport()
    opening = Connection(new_connection_id(a.id), "alice", transport, max_queue_bytes=1 << 20)
    a.registry.register(opening)
    await a.index.reconciler.compare(["alice"])
    assert not await fields_of(redis, keys, "alice")
    await a.subscriptions.join(opening, {})
    await a.index.reconciler.compare(["alice"])
    assert await fields_of(redis, keys, "alice") == {opening.id}
    assert repairs(a, "restored") == repairs(a, "removed") == 0


async def test_entries_without_a_connection_do_not_count_towards_the_limit(
    start: StartInstance, redis: RedisClient, keys: Keys
) -> None:
    a = await start(max_connections_per_user=1)
    entry = a.index.lease.member.encode() + b" " + FACTS
    await redis.hset(keys.connections("alice"), new_connection_id(a.id), entry)
    alice = await a.join("alice")
    assert await fields_of(redis, keys, "alice") == {alice.id}
    assert await redis.get(keys.connects("alice")) == b"1", "the second attempt is no connect"


async def test_users_whose_comparison_failed_are_compared_again(
    redis: RedisClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    brief = {"lease_seconds": 0.1, "lease_renewal_seconds": 0.05}
    instance = ClusterMember(redis, settings.model_copy(update=brief))
    compared: list[str] = []

    async def compare(users: Iterable[str]) -> None:
        compared.extend(users)
        if len(compared) < 3:
            raise ConnectionError

    monkeypatch.setattr(instance.index.reconciler, "compare", compare)
    instance.context.users_to_compare.add("alice")
    task = asyncio.create_task(instance.index.reconciler.run())
    try:
        await until(lambda: compared == ["alice"] * 3)
        await until(lambda: not instance.context.users_to_compare)
    finally:
        task.cancel()


async def test_users_are_compared_again_when_a_new_lease_came_during_their_comparison(
    start: StartInstance, redis: RedisClient, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new lease writes the entries of connections again, and removes no others."""
    a = await start(lease_seconds=0.2, lease_renewal_seconds=0.1)
    ghost = new_connection_id(a.id)
    await redis.hset(keys.connections("ghost"), ghost, f"{a.index.lease.member} {{}}")
    a.context.users_to_compare.add("ghost")
    compare, member = a.index.reconciler._compare, a.index.lease.member

    def during_a_renewal(*arguments: Any) -> asyncio.Future[Any]:
        if a.index.lease.member == member:
            a.index.lease.generation += 1
        return compare(*arguments)

    monkeypatch.setattr(a.index.reconciler, "_compare", during_a_renewal)
    task = asyncio.create_task(a.index.reconciler.run())

    async def is_removed() -> bool:
        return not await fields_of(redis, keys, "ghost")

    await until(is_removed)
    task.cancel()


async def test_revocations_reach_connections_that_the_index_does_not_name(
    start: StartInstance, redis: RedisClient, keys: Keys
) -> None:
    a, b = await start(), await start()
    transports = [RecordingTransport() for _ in range(3)]
    first = await a.join("alice", transport=transports[0])
    await b.join("alice", transport=transports[1])
    bob = await b.join("bob", transport=transports[2])
    await b.subscriptions.subscribe(bob, {"prices": None})
    await redis.hdel(keys.connections("alice"), first.id)
    await redis.delete(keys.connections("bob"))
    assert await a.messenger.close_user("alice") == 1
    await until(lambda: all(transport.closed for transport in transports[:2]))
    assert await a.messenger.unsubscribe("bob", "prices") == 0
    await until(lambda: "prices" not in bob.topics)
    assert not transports[2].closed


USERS = ("alice", "bob", "carol")
DAMAGES = ("delete", "lose", "stale", "mark", "set", "foreign")


@tries(derandomize=True, deadline=None, max_examples=40)
@given(
    joined=st.lists(st.sampled_from(USERS), max_size=5),
    damages=st.lists(
        st.tuples(st.sampled_from(USERS), st.sampled_from(DAMAGES), st.integers(0, 4)),
        max_size=8,
    ),
)
def test_whatever_happened_to_the_entries_they_are_as_the_connections(
    joined: list[str], damages: list[tuple[str, str, int]]
) -> None:
    asyncio.run(damage_and_compare(joined, damages))


async def damage_and_compare(joined: list[str], damages: list[tuple[str, str, int]]) -> None:
    settings = Settings(
        _env_file=None, environment="test", redis_url="memory://", jwt_secret=SECRET
    )
    redis, keys = create_client(settings.redis_url), Keys(settings.prefix)
    instance = ClusterMember(redis, settings)
    await instance.index.renew()
    foreign: set[tuple[str, str]] = set()
    connections = [await instance.join(user_id) for user_id in joined]
    for user_id, damage, number in damages:
        key, connection_id = keys.connections(user_id), f"{instance.id}.stale{number}"
        own = [connection.id for connection in connections if connection.user_id == user_id]
        chosen = own[number % len(own)] if own else connection_id
        if damage == "delete":
            await redis.delete(key)
            foreign = {one for one in foreign if one[0] != user_id}
        elif damage == "lose":
            await redis.hdel(key, chosen)
        elif damage == "stale":
            await redis.hset(key, connection_id, f"{instance.index.lease.member} {{}}")
        elif damage == "mark":
            await redis.hset(key, chosen, f"{instance.id}#0 {{}}")
        elif damage == "set":
            await redis.delete(keys.users_of(instance.index.lease.member))
        else:
            await redis.hset(key, f"{instance.id}x.{number}", f"{instance.id}x#1 {{}}")
            foreign.add((user_id, f"{instance.id}x.{number}"))
    await instance.index.reconciler.compare(USERS)
    for user_id in USERS:
        entries = await instance.pipeline.read_hash(keys.connections(user_id))
        mine = {one.id for one in connections if one.user_id == user_id}
        others = {one for user, one in foreign if user == user_id}
        assert texts(entries) == mine | others
        for connection_id in mine:
            mark = instance.index.lease.member.encode() + b" "
            assert entries[connection_id.encode()].startswith(mark)
    members = await redis.smembers(keys.users_of(instance.index.lease.member))
    assert texts(members) >= set(joined)
    await instance.pipeline.close()
    await redis.aclose()


@pytest.mark.parametrize("what", ["another instance", "an older generation"])
async def test_entries_without_a_lease_are_removed_after_the_time_of_a_lease(
    start: StartInstance, redis: RedisClient, keys: Keys, what: str
) -> None:
    """A node of a cluster came back with older data, after the reaper had done its work."""
    a, b = await start(lease_seconds=0.5, lease_renewal_seconds=0.1), await start()
    alice = await a.join("alice")
    member = "gone#1" if what == "another instance" else f"{b.id}#0"
    restored = new_connection_id(member.partition("#")[0])
    await redis.hset(keys.connections("alice"), restored, f"{member} {{}}")
    await a.index.renew()
    await a.index.reconciler.compare(["alice"])
    assert restored in await fields_of(redis, keys, "alice"), "its instance may take a new lease"

    async def is_removed() -> bool:
        await a.index.renew()
        await a.index.reconciler.compare(["alice"])
        return await fields_of(redis, keys, "alice") == {alice.id}

    await until(is_removed)


async def test_such_entries_are_removed_although_their_user_has_no_connection(
    start: StartInstance, redis: RedisClient, keys: Keys
) -> None:
    a = await start(lease_seconds=0.2, lease_renewal_seconds=0.1)
    await redis.hset(keys.connections("ghost"), new_connection_id("gone"), "gone#1 {}")
    async with comparing(a):
        await until(lambda: a.index.lease.known_members != "")
        await redis.sadd(keys.users_of(a.index.lease.member), "ghost")

        async def is_removed() -> bool:
            return not await fields_of(redis, keys, "ghost")

        await until(is_removed)


async def test_entries_of_a_living_instance_stay_although_its_lease_is_not_known_yet(
    start: StartInstance, redis: RedisClient, keys: Keys
) -> None:
    a = await start(lease_seconds=0.2, lease_renewal_seconds=0.1)
    await a.join("alice")
    b = await start()
    other = await b.join("alice")
    for _ in range(2):
        await a.index.reconciler.compare(["alice"])
        await asyncio.sleep(0.3)  # more than a lease
    assert other.id in await fields_of(redis, keys, "alice")


async def test_an_instance_whose_lease_came_back_has_the_time_of_a_lease_when_it_is_lost_again(
    start: StartInstance, redis: RedisClient, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen before it came back does not count."""
    monkeypatch.setattr("bff.cluster.reconciler._EXPIRY_LEASES", 1000)
    a, b = await start(lease_seconds=0.2, lease_renewal_seconds=0.1), await start()
    other = await b.join("alice")

    async def is_forgotten() -> bool:
        return b.index.lease.member not in a.index.reconciler._without_lease

    await a.index.reconciler.compare(["alice"])
    assert not await is_forgotten(), "its lease is not known yet"
    async with comparing(a):
        await until(is_forgotten)
    await redis.zrem(keys.leases, b.index.lease.member)
    await a.index.renew()
    await a.index.reconciler.compare(["alice"])
    assert other.id in await fields_of(redis, keys, "alice")


async def test_the_entries_of_a_user_expire_when_no_instance_compares_them(
    start: StartInstance, redis: RedisClient, keys: Keys
) -> None:
    a = await start(lease_seconds=30, lease_renewal_seconds=10)
    await a.join("alice")
    await a.index.reconciler.compare(["alice"])
    assert 290 < await redis.ttl(keys.connections("alice")) <= 300
    await redis.expire(keys.connections("alice"), 100)
    await a.index.reconciler.compare(["alice"])
    assert await redis.ttl(keys.connections("alice")) > 290
