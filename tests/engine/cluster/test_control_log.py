"""What closes connections or ends subscriptions reaches an instance that missed the publish."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from bff.cluster import control_log, pubsub_listener
from bff.cluster.control_log import ControlLog
from bff.cluster.envelopes import Kind, envelope
from bff.connections.connection import Connection
from bff.redis.client import RedisClient
from bff.settings import Settings
from bff.tasks import cancel_and_wait
from bff.testing import until

from tests.engine.cluster.conftest import ClusterMember, StartInstance
from tests.engine.doubles import RecordingTransport


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"pubsub_probe_seconds": 0.1})


@pytest.fixture
async def a(start: StartInstance) -> ClusterMember:
    return await start()


@pytest.fixture
async def deaf(start: StartInstance, monkeypatch: pytest.MonkeyPatch) -> ClusterMember:
    """An instance that loses every message of others, without an error."""
    instance = await start()
    await until(lambda: bool(instance.pubsub_listener._control_log._next_id))

    async def lose(_: object) -> None: ...

    monkeypatch.setattr(instance.pubsub_listener, "_on_message", lose)
    return instance


Revoke = Callable[[ClusterMember, Connection], Awaitable[object]]
CLOSES: dict[str, Revoke] = {
    "the user": lambda a, alice: a.messenger.close_user("alice"),
    "the connection": lambda a, alice: a.messenger.close_connection(alice.id),
    "all connections": lambda a, alice: a.messenger.close_all(),
}


@pytest.mark.parametrize("what", CLOSES)
async def test_a_close_that_was_not_received_is_applied(
    a: ClusterMember, deaf: ClusterMember, what: str
) -> None:
    alice = await deaf.join("alice")
    await CLOSES[what](a, alice)
    await until(lambda: alice.close_code is not None)


@pytest.mark.parametrize("has_been_subscribed", [True, False])
async def test_a_close_is_applied_while_the_instance_cannot_subscribe(
    a: ClusterMember,
    redis: RedisClient,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    has_been_subscribed: bool,
) -> None:
    """Commands work, but Redis refuses the connection for pub/sub: `maxclients`, for example."""
    refused: list[object] = []

    async def refuse(redis: object) -> object:
        refused.append(redis)
        raise ConnectionError("max number of clients reached")

    async def fail(_: object) -> None:
        raise ConnectionError("lost")

    b = ClusterMember(redis, settings)
    if not has_been_subscribed:
        monkeypatch.setattr(pubsub_listener, "create_pubsub", refuse)
    running = asyncio.create_task(b.pubsub_listener.run())
    if has_been_subscribed:
        await b.pubsub_listener.wait_until_subscribed()
        monkeypatch.setattr(pubsub_listener, "create_pubsub", refuse)
        monkeypatch.setattr(b.pubsub_listener, "_on_message", fail)
    await until(lambda: bool(refused) and bool(b.pubsub_listener._control_log._next_id))
    alice = await b.join("alice")
    await a.messenger.close_user("alice")
    await until(lambda: alice.close_code is not None)
    assert b.pubsub_listener.error
    await cancel_and_wait(running)


async def test_the_end_of_a_subscription_that_was_not_received_is_applied(
    a: ClusterMember, deaf: ClusterMember
) -> None:
    transport = RecordingTransport()
    alice, bob = await deaf.join("alice", transport=transport), await deaf.join("bob")
    for connection in (alice, bob):
        deaf.registry.subscribe(connection, "prices")
    await a.messenger.unsubscribe("alice", "prices")
    await until(lambda: not alice.topics)
    assert transport.messages()[-1]["payload"]["topic"] == "unsubscribed"
    assert bob.topics == {"prices"}


async def test_a_close_that_was_received_does_not_close_later_connections(
    start: StartInstance, caplog: pytest.LogCaptureFixture
) -> None:
    a = await start(pubsub_probe_seconds=60)  # reads the log only when this test does
    log = a.pubsub_listener._control_log
    await until(lambda: bool(log._next_id))
    first = await a.join("alice")
    await a.messenger.close_user("alice")
    await until(lambda: first.close_code is not None)
    again = await a.join("alice")
    await log.apply_missed(a.pubsub_listener._process)
    assert again.close_code is None
    assert not log._received
    assert "control message missed" not in caplog.text


async def test_what_was_revoked_before_an_instance_started_does_not_concern_it(
    a: ClusterMember, start: StartInstance
) -> None:
    await a.messenger.close_user("alice")
    b = await start()
    alice = await b.join("alice")
    await until(lambda: bool(b.pubsub_listener._control_log._next_id))
    await b.pubsub_listener._control_log.apply_missed(b.pubsub_listener._process)
    assert alice.close_code is None


async def test_each_missed_message_is_applied_once_and_none_is_kept(
    a: ClusterMember,
) -> None:
    reader = ControlLog(a.context)
    applied: list[bytes] = []
    await reader.apply_missed(applied.append)
    texts = [envelope(Kind.CLOSE_USER, f"user-{number}", "4003") for number in range(5)]
    for text in texts:
        await reader.publish(text)
    await reader.apply_missed(applied.append)
    stored: Any = await a.context.redis.xrange(a.context.keys.control_log)
    for _ in range(4):
        for message_id, _ in stored:
            assert not reader.on_received(message_id.decode()), "pub/sub delivers it late"
        await reader.apply_missed(applied.append)
    assert reader.on_received("1-1")
    await reader.apply_missed(applied.append)
    assert applied == [text.encode() for text in texts]


async def test_a_message_that_is_received_long_before_it_is_read_is_not_repeated(
    a: ClusterMember,
) -> None:
    """Reads of the log may fail, or see an older state of a replica that was promoted."""
    reader = ControlLog(a.context)
    applied: list[bytes] = []
    await reader.apply_missed(applied.append)
    later = "9999999999999"
    for number in (9, 10):
        assert reader.on_received(f"{later}-{number}")
    for number in (9, 10, 11):
        await reader.apply_missed(applied.append)
        await a.context.redis.xadd(
            a.context.keys.control_log, {"m": str(number)}, id=f"{later}-{number}"
        )
    await reader.apply_missed(applied.append)
    assert applied == [b"11"]
    assert not reader._received


async def test_a_message_that_is_received_before_it_is_read_is_not_repeated(
    a: ClusterMember,
) -> None:
    reader = ControlLog(a.context)
    applied: list[bytes] = []
    await reader.apply_missed(applied.append)
    await reader.publish("close_all\n4003")
    stored: Any = await a.context.redis.xrange(a.context.keys.control_log)
    reader.on_received(stored[0][0].decode())
    await reader.apply_missed(applied.append)
    assert applied == []
    assert not reader._received


async def test_what_is_kept_is_bounded_in_number_and_time(
    a: ClusterMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_log, "_MAX_KEPT", 10)
    for _ in range(300):
        await a.messenger.close_user("nobody")
    key = a.context.keys.control_log
    assert 10 <= int(await a.context.redis.xlen(key)) < 300
    assert 0 < int(await a.context.redis.ttl(key)) <= 24 * 3600
