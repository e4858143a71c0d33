"""Presence follows the index, does not flap, and stays correct when an instance is killed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bff.cluster.presence import presence_topic
from bff.cluster.presence_queue import Claim
from bff.connections.connection import Connection
from bff.names import is_topic
from bff.redis.client import RedisClient
from bff.settings import Settings
from bff.testing import until

from tests.engine.cluster.conftest import ClusterMember, StartInstance
from tests.engine.cluster.test_subscriptions import events_of


@pytest.fixture
def settings(settings: Settings) -> Settings:
    changed = {"lease_renewal_seconds": 0.1, "presence_grace_seconds": 0.1}
    return settings.model_copy(update=changed)


async def watch(instance: ClusterMember, user_id: str) -> Connection:
    watcher = await instance.join("watcher")
    await instance.subscriptions.subscribe(watcher, {presence_topic(user_id): None})
    return watcher


def seen_by(watcher: Connection, user_id: str) -> list[str]:
    return [event["type"] for event in events_of(watcher, presence_topic(user_id))]


async def queue_is_empty(instance: ClusterMember) -> None:
    """Wait until the presence queue is empty."""

    async def is_empty() -> bool:
        return not await instance.index._redis.zcard(instance.index._keys.presence)

    await until(is_empty)


async def test_changes_are_announced_to_watchers_on_every_instance(
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
    await queue_is_empty(a)
    await until(lambda: seen_by(watcher, "alice") == ["user.online"])
    await b.leave(second)
    await until(lambda: seen_by(watcher, "alice") == ["user.online", "user.offline"])


async def test_a_reconnect_within_the_grace_period_is_not_announced(start: StartInstance) -> None:
    a, b = await start(presence_grace_seconds=60), await start(presence_grace_seconds=60)
    watcher = await watch(a, "alice")
    alice = await a.join("alice")
    await until(lambda: seen_by(watcher, "alice") == ["user.online"])
    await a.leave(alice)
    await b.join("alice")

    async def alice_was_checked() -> bool:
        return await a.index._redis.zscore(a.index._keys.presence, "alice") is None

    await until(alice_was_checked)
    assert seen_by(watcher, "alice") == ["user.online"]


async def test_users_of_a_killed_instance_are_announced_as_offline_by_the_others(
    start: StartInstance, redis: RedisClient, settings: Settings
) -> None:
    a = await start()
    watcher = await watch(a, "alice")
    killed = ClusterMember(redis, settings.model_copy(update={"lease_seconds": 0.4}))
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


async def test_a_claim_that_is_not_released_is_processed_by_another_instance(
    start: StartInstance, redis: RedisClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bff.cluster.presence_queue._CLAIM_MS", 200)
    a = await start()
    watcher = await watch(a, "alice")
    await queue_is_empty(a)
    dying = ClusterMember(redis, settings)
    await dying.index.renew()
    a.presence._queue.watched = False  # it claims nothing
    joining = asyncio.create_task(dying.join("alice"))
    claims: list[Claim] = []

    async def has_claimed() -> bool:
        claims.extend((await dying.presence._queue.claim())[1])
        return bool(claims)

    await until(has_claimed)
    a.presence._queue.watched = True
    assert [claim.user_id for claim in claims] == ["alice"]
    await until(lambda: seen_by(watcher, "alice") == ["user.online"])
    await joining


async def test_a_connect_is_announced_at_once(start: StartInstance) -> None:
    """Not only when the queue is read next."""
    a = await start(lease_renewal_seconds=60)
    watcher = await watch(a, "alice")
    await a.join("alice")
    await until(lambda: seen_by(watcher, "alice") == ["user.online"])


async def test_the_queue_tells_how_long_to_wait_for_the_end_of_a_grace_period(
    redis: RedisClient, settings: Settings
) -> None:
    own = settings.model_copy(update={"presence_grace_seconds": 60})
    queue = ClusterMember(redis, own).presence._queue
    assert await queue.claim() == (float("inf"), [])
    await queue.on_disconnected(["alice"])
    wait, claims = await queue.claim()
    assert 1 < wait <= 60
    assert claims == []
    await queue.on_connected(["alice", "bob", "carol"])
    _, claimed = await queue.claim()
    assert sorted(claim.user_id for claim in claimed) == ["alice", "bob", "carol"]
    wait, claims = await queue.claim()
    assert wait <= 10, "then another instance may claim the users"
    assert claims == []
    for claim in claimed:
        await queue.release(claim)
    assert await queue.claim() == (float("inf"), [])


async def test_the_queue_waits_once_for_each_connect(start: StartInstance) -> None:
    """Otherwise the instance would ask Redis without a pause."""
    a = await start()
    queue = ClusterMember(a.context.redis, a.context.settings).presence._queue
    await queue.on_connected(["alice", "bob"])
    await queue.wait_for_connect(60)
    waiting = asyncio.create_task(queue.wait_for_connect(60))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    await queue.on_connected(["carol"])
    async with asyncio.timeout(15):
        await waiting


async def test_all_users_that_are_due_are_announced_once_although_two_instances_do_it(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one because the first has announced, and was killed before it noted that."""
    monkeypatch.setattr("bff.cluster.presence_queue._MAX_CLAIMS", 2)
    monkeypatch.setattr("bff.cluster.presence_queue._CLAIM_MS", 0)
    a = await start()
    users = [f"user-{number}" for number in range(5)]
    a.presence._queue.watched = False  # it claims nothing
    watcher = await a.join("watcher")
    await a.subscriptions.subscribe(watcher, {presence_topic(user): None for user in users})
    for user in users:
        await a.join(user)
    a.presence._queue.watched = True
    await a.presence._queue.on_connected(users)
    save = a.presence._save_announced

    async def killed(keys: object, arguments: object) -> None:
        raise ConnectionError

    a.presence._save_announced = killed  # type: ignore[assignment]
    with pytest.raises(ConnectionError):
        await a.presence.announce_due()
    a.presence._save_announced = save
    await until(lambda: all(seen_by(watcher, user) for user in users))
    await queue_is_empty(a)
    await a.messenger.to_user("watcher", "marker", 1)
    await until(lambda: events_of(watcher, "marker") == [1])
    assert [seen_by(watcher, user) for user in users] == [["user.online"]] * len(users)


async def test_an_instance_that_is_slower_than_the_change_does_not_have_the_last_word(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has seen that the user is online, and announces it after another one has seen the user
    offline."""
    members = [await start(), await start()]
    watcher = await watch(members[0], "alice")
    begun, may_send = asyncio.Event(), asyncio.Event()
    for member in members:
        to_topic = member.presence._messenger.to_topic

        async def send(*what: Any, to_topic: Any = to_topic, **options: Any) -> str:
            if what[0] == presence_topic("alice") and not begun.is_set():
                begun.set()
                await may_send.wait()
            sent: str = await to_topic(*what, **options)
            return sent

        monkeypatch.setattr(member.presence._messenger, "to_topic", send)
    alice = await members[0].join("alice")
    await begun.wait()
    await members[0].leave(alice)
    await queue_is_empty(members[0])
    may_send.set()
    await until(lambda: seen_by(watcher, "alice") == ["user.online", "user.offline"])
    await queue_is_empty(members[0])


async def test_the_connections_of_users_on_all_instances(start: StartInstance) -> None:
    a, b = await start(), await start()
    here, there = await a.join("alice"), await b.join("alice")
    found = await a.presence.of(["alice", "nobody"])
    assert {facts.connection_id for facts in found["alice"]} == {here.id, there.id}
    assert {facts.instance for facts in found["alice"]} == {a.id, b.id}
    assert found["nobody"] == []


async def test_nothing_is_enqueued_while_nobody_can_watch(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await start()
    queue: Any = a.index._presence
    queue.watched = False
    await a.leave(await a.join("alice"))
    assert not await a.index._redis.zcard(a.index._keys.presence)


@pytest.mark.parametrize("user_id", ["two words", "a,b", "ä", "a/b", "漢" * 128])
def test_every_user_id_has_a_valid_topic(user_id: str) -> None:
    assert is_topic(presence_topic(user_id))


def test_different_user_ids_have_different_topics() -> None:
    assert presence_topic("a b") != presence_topic("a%20b")
