"""Who is online: by the index alone, without flapping, and honest when a process is killed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bff.cluster.presence import presence_topic
from bff.connections.connection import Connection
from bff.connections.positions import TOPIC
from bff.redis.client import RedisClient
from bff.settings import Settings
from bff.testing import until

from tests.engine.cluster.conftest import ClusterMember, StartInstance
from tests.engine.cluster.test_subscriptions import events_of


@pytest.fixture
def settings(settings: Settings) -> Settings:
    changed = {"lease_seconds": 0.4, "lease_renewal_seconds": 0.1, "presence_grace_seconds": 0.1}
    return settings.model_copy(update=changed)


async def watch(instance: ClusterMember, user_id: str) -> Connection:
    watcher = await instance.join("watcher")
    await instance.subscriptions.subscribe(watcher, {presence_topic(user_id): None})
    return watcher


def seen_by(watcher: Connection, user_id: str) -> list[str]:
    return [event["type"] for event in events_of(watcher, presence_topic(user_id))]


async def quiet(instance: ClusterMember) -> None:
    """Wait until nobody is left to be looked at."""

    async def is_empty() -> bool:
        return not await instance.index._redis.zcard(instance.index._keys.presence)

    await until(is_empty)


async def test_coming_and_going_is_told_to_whoever_watches_on_any_instance(
    start: StartInstance,
) -> None:
    a, b = await start(), await start()
    here, there = await watch(a, "alice"), await watch(b, "alice")
    alice = await a.join("alice")
    await until(lambda: seen_by(here, "alice") == seen_by(there, "alice") == ["user.online"])
    assert events_of(here, "presence.alice") == [{"type": "user.online", "user_id": "alice"}]
    await a.leave(alice)
    both = ["user.online", "user.offline"]
    await until(lambda: seen_by(here, "alice") == seen_by(there, "alice") == both)


async def test_only_the_first_and_the_last_connection_count(start: StartInstance) -> None:
    a, b = await start(), await start()
    watcher = await watch(a, "alice")
    first, second = await a.join("alice"), await b.join("alice")
    await a.leave(first)
    await quiet(a)
    assert seen_by(watcher, "alice") == ["user.online"]
    await b.leave(second)
    await until(lambda: seen_by(watcher, "alice") == ["user.online", "user.offline"])


async def test_a_reconnect_within_the_grace_is_no_absence(start: StartInstance) -> None:
    a, b = await start(presence_grace_seconds=60), await start(presence_grace_seconds=60)
    watcher = await watch(a, "alice")
    alice = await a.join("alice")
    await until(lambda: seen_by(watcher, "alice") == ["user.online"])
    await a.leave(alice)
    await b.join("alice")

    async def alice_was_looked_at() -> bool:
        return await a.index._redis.zscore(a.index._keys.presence, "alice") is None

    await until(alice_was_looked_at)
    assert seen_by(watcher, "alice") == ["user.online"]


async def test_whoever_was_on_a_killed_instance_is_told_offline_by_the_others(
    start: StartInstance, redis: RedisClient, settings: Settings
) -> None:
    a = await start()
    watcher = await watch(a, "alice")
    killed = ClusterMember(redis, settings)
    await killed.index.renew()
    await killed.join("alice")
    await until(lambda: seen_by(watcher, "alice") == ["user.online"])
    reaping = asyncio.create_task(a.index.run())
    try:
        await until(lambda: seen_by(watcher, "alice") == ["user.online", "user.offline"])
        assert await a.presence.of(["alice", "watcher"]) == {
            "alice": [],
            "watcher": await a.index.connections_of("watcher"),
        }
    finally:
        reaping.cancel()


async def test_what_an_instance_took_and_did_not_tell_another_tells(
    start: StartInstance, redis: RedisClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bff.cluster.presence_queue._WORK_MS", 200)
    a = await start()
    watcher = await watch(a, "alice")
    await quiet(a)
    dying = ClusterMember(redis, settings)
    await dying.index.renew()
    taking = asyncio.create_task(dying.join("alice"))
    while not (taken := (await dying.presence._queue.take())[1]):
        await asyncio.sleep(0)
    assert [change.user_id for change in taken] == ["alice"]
    await until(lambda: seen_by(watcher, "alice") == ["user.online"])
    await taking


async def test_who_is_where(start: StartInstance) -> None:
    a, b = await start(), await start()
    here, there = await a.join("alice"), await b.join("alice")
    found = await a.presence.of(["alice", "nobody"])
    assert {facts.connection_id for facts in found["alice"]} == {here.id, there.id}
    assert {facts.instance for facts in found["alice"]} == {a.id, b.id}
    assert found["nobody"] == []


async def test_nothing_is_asked_of_redis_while_nobody_may_watch(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await start()
    queue: Any = a.index._presence
    queue.watched = False
    await a.leave(await a.join("alice"))
    assert not await a.index._redis.zcard(a.index._keys.presence)


@pytest.mark.parametrize("user_id", ["two words", "a,b", "ä", "a/b", "漢" * 128])
def test_every_user_has_a_topic(user_id: str) -> None:

    assert TOPIC.fullmatch(presence_topic(user_id))


def test_two_users_have_two_topics() -> None:
    assert presence_topic("a b") != presence_topic("a%20b")
