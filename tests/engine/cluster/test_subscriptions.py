"""Subscriptions to topics, with and without a position."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from bff.cluster.stream_tracker import CatchUp
from bff.cluster.streams import Page
from bff.connections.connection import Connection, new_connection_id
from bff.connections.frames import Frame
from bff.connections.positions import Position
from bff.errors import Code, Problem
from bff.redis.client import RedisClient
from bff.settings import Settings
from bff.testing import until

from tests.engine.cluster.conftest import StartInstance, everywhere
from tests.engine.cluster.test_stream_hub import gaps_of, transport_of
from tests.engine.doubles import RecordingTransport


def events_of(connection: Connection, topic: str) -> list[Any]:
    return [
        message["payload"]["event"]
        for message in transport_of(connection).messages()
        if message["type"] == "event" and message["payload"]["topic"] == topic
    ]


async def test_to_topic_reaches_the_subscribers_on_every_instance_and_no_others(
    start: StartInstance,
) -> None:
    a, b = await start(), await start()
    alice, bob, carol = await a.join("alice"), await b.join("bob"), await b.join("carol")
    for instance, connection in ((a, alice), (b, bob)):
        await instance.subscriptions.subscribe(connection, {"prices.tea": None})
    sent = await a.messenger.to_topic("prices.tea", 3)
    await until(lambda: events_of(alice, "prices.tea") == events_of(bob, "prices.tea") == [3])
    assert transport_of(alice).messages()[-1]["payload"]["id"] == sent
    await b.messenger.to_user("carol", "marker", 1)
    await until(lambda: events_of(carol, "marker") == [1])
    assert events_of(carol, "prices.tea") == []


async def test_with_a_position_missed_messages_come_before_live_ones(start: StartInstance) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    seen = await b.messenger.to_topic("prices", 0)
    for number in range(1, 6):
        await b.messenger.to_topic("prices", number)
    joined = await a.subscriptions.subscribe(alice, {"prices": Position.parse(seen)[1]})
    assert joined.recovered() == {"topic:prices": True}
    assert joined.positions()["topic:prices"].endswith("/6")
    await b.messenger.to_topic("prices", 6)
    await until(lambda: 6 in events_of(alice, "prices"))
    assert events_of(alice, "prices") == [1, 2, 3, 4, 5, 6]
    assert gaps_of(alice) == []


async def test_without_a_position_only_new_messages_come(start: StartInstance) -> None:
    a = await start()
    alice = await a.join("alice")
    await a.messenger.to_topic("prices", "before")
    joined = await a.subscriptions.subscribe(alice, {"prices": None})
    assert joined.recovered() == {}
    await a.messenger.to_topic("prices", "after")
    await until(lambda: events_of(alice, "prices") == ["after"])


async def test_after_unsubscribe_no_messages_come(start: StartInstance) -> None:
    a = await start()
    alice, bob = await a.join("alice"), await a.join("bob")
    for connection in (alice, bob):
        await a.subscriptions.subscribe(connection, {"prices": None})
    a.subscriptions.unsubscribe(alice, ["prices", "never-had"])
    await a.messenger.to_topic("prices", 1)
    await until(lambda: events_of(bob, "prices") == [1])
    assert events_of(alice, "prices") == []


class Full(RecordingTransport):
    """A transport whose buffer is full after the first frame, until it is drained."""

    def __init__(self) -> None:
        super().__init__()
        self.room = asyncio.Event()

    async def drained(self) -> None:
        await self.room.wait()
        self.buffered = 0

    def write(self, frame: Frame, limit: int) -> bool:
        self.buffered = 0 if self.room.is_set() else 1 << 19
        return super().write(frame, limit)


async def test_after_unsubscribe_while_catching_up_no_messages_come(start: StartInstance) -> None:
    a = await start()
    alice = await a.join("alice", transport=(transport := Full()))
    seen = Position.parse(await a.messenger.to_topic("prices", 0))[1]
    await a.messenger.to_topic("prices", 1)
    await a.subscriptions.subscribe(alice, {"prices": seen})
    await asyncio.sleep(0)
    a.subscriptions.unsubscribe(alice, ["prices"])
    transport.room.set()
    await a.messenger.to_user("alice", "marker", 1)
    await until(lambda: events_of(alice, "marker") == [1])
    assert events_of(alice, "prices") == []


async def test_a_connection_that_leaves_while_catching_up_leaves_nothing_behind(
    start: StartInstance,
) -> None:
    """Although others of its user and its topic stay."""
    a = await start()
    stays = await a.join("alice")
    leaves = Connection(
        new_connection_id(a.id), "alice", RecordingTransport(), max_queue_bytes=1000
    )
    a.registry.register(leaves)
    await a.subscriptions.join(leaves, {})
    streams = a.streams
    streams.join_topic(stays, "tea")
    streams.join_topic(leaves, "tea")
    assert sum(leaves in one.catching_up for one in streams.trackers()) == 3
    a.subscriptions.leave(leaves)
    assert not any(leaves in one.catching_up for one in streams.trackers())
    assert streams.of_user("alice") is not None


async def test_subscribing_again_while_catching_up_delivers_each_message_once(
    start: StartInstance,
) -> None:
    a = await start()
    alice = await a.join("alice", transport=(transport := Full()))
    await a.subscriptions.subscribe(await a.join("bob"), {"milk": None})
    seen = {
        topic: Position.parse(await a.messenger.to_topic(topic, 0))[1] for topic in ("tea", "milk")
    }
    for topic in seen:
        await a.messenger.to_topic(topic, 1)
    await a.subscriptions.subscribe(alice, seen)
    await asyncio.sleep(0)
    a.subscriptions.unsubscribe(alice, ["milk"])
    await a.subscriptions.subscribe(alice, {"milk": seen["milk"]})
    await asyncio.sleep(0)
    transport.room.set()
    await until(lambda: events_of(alice, "tea") == [1])
    for topic in seen:
        await a.messenger.to_topic(topic, 2)
    await until(lambda: 2 in events_of(alice, "tea") and 2 in events_of(alice, "milk"))
    assert events_of(alice, "tea") == events_of(alice, "milk") == [1, 2]


async def test_an_instance_subscribes_only_to_channels_of_topics_with_subscribers(
    start: StartInstance, redis: RedisClient, settings: Settings
) -> None:
    a = await start(stream_check_seconds=0.1)
    alice = await a.join("alice")

    async def subscribers() -> int:
        channel = f"{settings.prefix}:topic:prices"
        return dict(await redis.pubsub_numsub(channel, **everywhere(redis)))[channel.encode()]

    assert await subscribers() == 0
    await a.subscriptions.subscribe(alice, {"prices": None})
    assert await subscribers() == 1
    await a.leave(alice)

    async def unsubscribed() -> bool:
        return await subscribers() == 0

    await until(unsubscribed)
    alice = await a.join("alice")
    await a.subscriptions.subscribe(alice, {"prices": None})
    await a.messenger.to_topic("prices", 1)
    await until(lambda: events_of(alice, "prices") == [1])


async def test_a_page_that_is_reloaded_costs_no_subscribe_and_no_unsubscribe(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leaves, joins and subscribes again before the next comparison with Redis."""
    a = await start()  # the first comparison with it in use is STREAM_CHECK_SECONDS away
    alice = await a.join("alice")
    await a.subscriptions.subscribe(alice, {"prices": None})
    pubsub = a.pubsub_listener._channels._pubsub
    sent: list[str] = []
    for command in ("subscribe", "unsubscribe"):

        async def record(*names: str, command: str = command) -> None:
            sent.append(command)

        monkeypatch.setattr(pubsub, command, record)
    await a.leave(alice)
    alice = await a.join("alice")
    await a.subscriptions.subscribe(alice, {"prices": None})
    in_use = {a.context.keys.topic_channel(topic) for topic in a.streams.topics()}
    await a.pubsub_listener._channels.unsubscribe_all_but(in_use)  # as a comparison does
    assert sent == []
    await a.messenger.to_topic("prices", 1)
    await until(lambda: events_of(alice, "prices") == [1])
    await a.leave(alice)
    await a.pubsub_listener._channels.unsubscribe_all_but(set())
    assert sent == ["unsubscribe"], "what is sent is seen"


async def test_topic_channels_are_subscribed_again_after_a_reconnect(
    start: StartInstance, redis: RedisClient, settings: Settings
) -> None:
    if settings.redis_url == "memory://":
        pytest.skip("TEST_REDIS_URL names no real Redis server")
    a, b = await start(), await start()
    alice = await a.join("alice")
    await a.subscriptions.subscribe(alice, {"prices": None})
    restarts = a.metrics.registry.get_sample_value("bff_pubsub_restarts_total") or 0
    await redis.execute_command("CLIENT KILL", "TYPE", "pubsub", **everywhere(redis))
    await b.messenger.to_topic("prices", 1)
    await until(lambda: events_of(alice, "prices") == [1])
    assert (a.metrics.registry.get_sample_value("bff_pubsub_restarts_total") or 0) > restarts


async def test_a_request_beyond_the_topic_limit_subscribes_to_none_of_them(
    start: StartInstance,
) -> None:
    a = await start(max_topics_per_connection=2)
    alice = await a.join("alice")
    await a.subscriptions.subscribe(alice, {"one": None})
    with pytest.raises(Problem) as refused:
        await a.subscriptions.subscribe(alice, {"one": None, "two": None, "three": None})
    assert refused.value.code is Code.FORBIDDEN
    assert alice.topics == {"one"}


async def test_subscribing_again_starts_at_the_new_position(start: StartInstance) -> None:
    a = await start()
    alice = await a.join("alice")
    await a.subscriptions.subscribe(alice, {"prices": None})
    sent = await a.messenger.to_topic("prices", 1)
    await until(lambda: events_of(alice, "prices") == [1])
    earlier = Position(Position.parse(sent)[1].epoch, 0)
    await a.subscriptions.subscribe(alice, {"prices": earlier})
    await a.messenger.to_topic("prices", 2)
    await until(lambda: events_of(alice, "prices") == [1, 1, 2])


async def test_the_server_subscribes_a_user_on_every_instance(start: StartInstance) -> None:
    a, b = await start(), await start()
    here, there = await a.join("alice"), await b.join("alice")
    assert await a.messenger.subscribe("alice", "prices") == 2
    await until(lambda: bool(events_of(here, "subscribed") and events_of(there, "subscribed")))
    assert set(events_of(here, "subscribed")[0]["positions"]) == {"topic:prices"}
    await b.messenger.to_topic("prices", 1)
    await until(lambda: events_of(here, "prices") == events_of(there, "prices") == [1])
    await b.messenger.unsubscribe("alice", "prices")
    await until(lambda: events_of(there, "unsubscribed") == [{"topics": ["prices"]}])


async def test_a_connection_that_has_closed_is_not_subscribed(start: StartInstance) -> None:
    """A topic policy, or a library in it, has lost the cancellation of the request."""
    a = await start()
    alice = await a.join("alice")
    alice.close(4001)
    await a.leave(alice)
    with pytest.raises(Problem) as problem:
        await a.subscriptions.subscribe(alice, {"prices": None})
    assert problem.value.code is Code.CANCELLED
    assert a.streams.topics() == ()
    assert not a.registry.has_subscriber("prices")


async def test_a_connection_that_closes_while_the_server_subscribes_it_leaves_no_state(
    start: StartInstance,
) -> None:
    a = await start()
    alice = await a.join("alice")
    a.subscriptions.subscribe_user("alice", "prices")
    alice.close(1000)
    await a.leave(alice)
    await until(lambda: not a.subscriptions._tasks)
    assert a.streams.of_topic("prices") is None
    assert a.registry.by_topic("prices") == ()


async def test_sending_to_an_invalid_topic_raises(start: StartInstance) -> None:
    a = await start()
    for topic in ("", "two words", "a,b", "x" * 256):
        with pytest.raises(Problem, match="not a topic"):
            await a.messenger.to_topic(topic, 1)


async def test_a_cancelled_subscription_does_not_end_a_newer_one(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await start()
    alice = await a.join("alice")

    async def hang(topics: Mapping[str, Position | None]) -> list[Page]:
        await asyncio.sleep(3600)
        return []

    with monkeypatch.context() as patched:
        patched.setattr(a.subscriptions, "_read", hang)
        first = asyncio.create_task(a.subscriptions.subscribe(alice, {"prices": None}))
        await asyncio.sleep(0)
    await a.subscriptions.subscribe(alice, {"prices": None})
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await a.messenger.to_topic("prices", 7)
    await until(lambda: events_of(alice, "prices") == [7])


async def test_overlapping_requests_for_a_topic_end_independently(start: StartInstance) -> None:
    """Each sees the topics that are unsubscribed until it ends, and none is kept."""
    a = await start()
    alice = await a.join("alice")
    first, second, third = (
        a.subscriptions.cancelled_by_unsubscribe(alice, {"prices"}) for _ in range(3)
    )
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    third.__enter__()
    second.__exit__(None, None, None)
    a.subscriptions.unsubscribe(alice, ["prices"])
    with pytest.raises(Problem, match="Unsubscribed"):
        third.__exit__(None, None, None)
    assert a.subscriptions._pending == {}


async def test_a_subscription_that_ends_while_redis_is_read_is_cancelled(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await start()
    alice = await a.join("alice")
    read = a.subscriptions._read
    is_reading, may_read = asyncio.Event(), asyncio.Event()

    async def wait(topics: Mapping[str, Position | None]) -> list[Page]:
        is_reading.set()
        await may_read.wait()
        return await read(topics)

    monkeypatch.setattr(a.subscriptions, "_read", wait)
    subscribing = asyncio.create_task(
        a.subscriptions.subscribe(alice, {"prices": None, "news": None})
    )
    await is_reading.wait()
    a.subscriptions.revoke(alice, ["prices"])
    may_read.set()
    with pytest.raises(Problem) as caught:
        await subscribing
    assert caught.value.code is Code.CANCELLED
    assert alice.topics == set()
    assert a.streams.of_topic("news") is None


@pytest.mark.parametrize("later", [False, True])
async def test_the_last_word_of_the_server_about_a_subscription_counts(
    start: StartInstance, later: bool
) -> None:
    """Also when the messages of both arrive together, or while the first one reads Redis."""
    a = await start()
    alice = await a.join("alice")
    a.subscriptions.subscribe_user("alice", "prices")
    if later:
        await asyncio.sleep(0)
        assert alice.topics == {"prices"}
    a.subscriptions.unsubscribe_user("alice", "prices")
    await until(lambda: not a.subscriptions._tasks)
    assert alice.topics == set()
    assert events_of(alice, "unsubscribed") == [{"topics": ["prices"]}]
    assert events_of(alice, "subscribed") == []
    assert a.subscriptions._pending == {}


async def test_the_server_s_subscription_ends_no_catching_up(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is subscribed already gets what it has missed, each message once."""
    a = await start()
    catch_up, may_begin = a.subscriptions.catch_up, asyncio.Event()

    async def slowly(*args: Any) -> None:
        await may_begin.wait()
        await catch_up(*args)

    alice = await a.join("alice")
    seen = await a.messenger.to_topic("prices", 0)
    for number in range(1, 4):
        await a.messenger.to_topic("prices", number)
    with monkeypatch.context() as patch:
        patch.setattr(a.subscriptions, "catch_up", slowly)
        await a.subscriptions.subscribe(alice, {"prices": Position.parse(seen)[1]})
    a.subscriptions.subscribe_user("alice", "prices")
    await until(lambda: len(a.subscriptions._tasks) == 1)
    may_begin.set()
    await until(lambda: not a.subscriptions._tasks)
    await a.messenger.to_topic("prices", 4)
    await until(lambda: 4 in events_of(alice, "prices"))
    assert events_of(alice, "prices") == [1, 2, 3, 4]


async def test_a_subscription_that_redis_does_not_confirm_is_refused_and_leaves_nothing(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bff.cluster.subscriptions._SUBSCRIBE_SECONDS", 0.05)
    a = await start()
    alice = await a.join("alice")

    async def unconfirmed(name: str) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(a.subscriptions._channels, "subscribe", unconfirmed)
    with pytest.raises(Problem) as refused:
        await a.subscriptions.subscribe(alice, {"prices": None, "news": None})
    assert refused.value.code is Code.SERVICE_UNAVAILABLE
    assert alice.topics == set()
    assert a.streams.topics() == ()


async def test_the_server_subscribes_the_connections_of_a_user_that_have_room(
    start: StartInstance, caplog: pytest.LogCaptureFixture
) -> None:
    a = await start(max_topics_per_connection=1)
    full, free = await a.join("alice"), await a.join("alice")
    await a.subscriptions.subscribe(full, {"news": None})
    a.subscriptions.subscribe_user("alice", "prices")
    await until(lambda: not a.subscriptions._tasks)
    assert full.topics == {"news"}
    assert free.topics == {"prices"}
    assert events_of(full, "subscribed") == []
    logged = [vars(one) for one in caplog.records]
    assert [one["connection"] for one in logged if "connection" in one] == [full.id]
    (event,) = events_of(free, "subscribed")
    assert set(event["positions"]) == {"topic:prices"}


async def test_an_instance_that_stops_subscribes_nobody(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await start()
    alice = await a.join("alice")
    is_reading = asyncio.Event()

    async def hang(topics: Mapping[str, Position | None]) -> list[Page]:
        is_reading.set()
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(a.subscriptions, "_read", hang)
    a.subscriptions.subscribe_user("alice", "prices")
    await is_reading.wait()
    await a.stop()
    assert alice.topics == set()
    assert events_of(alice, "subscribed") == []


async def test_a_connect_beyond_the_limit_of_connections_counts_as_one_connect(
    start: StartInstance, redis: RedisClient
) -> None:
    """It is tried twice: entries of dead instances are removed in between."""
    a = await start(max_connections_per_user=1)
    await a.join("alice")
    for _ in range(2):
        with pytest.raises(Problem, match="Too many connections"):
            await a.join("alice")
    assert await redis.get(a.context.keys.connects("alice")) == b"3"


async def test_changed_details_of_a_connection_are_seen_by_all_instances(
    start: StartInstance,
) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    alice.details["session_id"] = "s-2"
    await a.subscriptions.update_entry(alice)
    assert [one.session_id for one in await b.index.connections_of("alice")] == ["s-2"]


async def test_an_event_that_is_not_stored_comes_to_those_who_have_read_what_they_missed(
    start: StartInstance,
) -> None:
    """It must not come before the response to the subscription, nor before older messages."""
    a = await start()
    live, reading, has_read = [await a.join(name) for name in ("alice", "bob", "carol")]
    for connection in (live, reading, has_read):
        await a.subscriptions.subscribe(connection, {"prices": None})
    await until(lambda: not a.subscriptions._tasks)
    tracker = a.streams.of_topic("prices")
    assert tracker is not None
    assert list(a.streams.subscribers("prices")) == [live, reading, has_read]
    tracker.catching_up[reading], tracker.catching_up[has_read] = CatchUp(), CatchUp()
    tracker.catching_up[has_read].read_up_to = tracker.position
    assert list(a.streams.subscribers("prices")) == [live, has_read]
    assert list(a.streams.subscribers("news")) == []
