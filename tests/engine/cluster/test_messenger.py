"""Sends from any instance to the connections of all instances."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bff.cluster.messenger import Sent
from bff.connections.close_codes import CloseCode
from bff.connections.connection import Connection
from bff.connections.declared_events import EventType
from bff.errors import Code, Problem
from bff.redis.client import RedisClient
from bff.settings import Settings
from bff.testing import until
from pydantic import BaseModel, ConfigDict

from tests.engine.cluster.conftest import StartInstance
from tests.engine.doubles import RecordingTransport

TYPING = EventType("typing", str, stored=False)


def events_of(connection: Connection) -> list[dict[str, Any]]:
    """The events that the connection got after its hello."""
    assert isinstance(connection.transport, RecordingTransport)
    return [message["payload"] for message in connection.transport.messages()[1:]]


def closed_with(connection: Connection) -> int | None:
    return connection.close_code


async def test_to_user_reaches_the_user_on_every_instance_and_no_other_user(
    start: StartInstance,
) -> None:
    a, b = await start(), await start()
    alice = [await a.join("alice"), await a.join("alice"), await b.join("alice")]
    bob = await b.join("bob")
    sent = await a.messenger.to_user("alice", "news", {"n": 1})
    await until(lambda: all(events_of(connection) for connection in alice))
    assert sent.addressed == 3
    for connection in alice:
        assert events_of(connection) == [{"topic": "news", "event": {"n": 1}, "id": sent.id}]
    await a.messenger.to_user("bob", "marker", None)
    await until(lambda: bool(events_of(bob)))
    assert [event["topic"] for event in events_of(bob)] == ["marker"]


async def test_messages_of_a_user_arrive_in_the_order_of_their_offsets(
    start: StartInstance,
) -> None:
    a, b = await start(), await start()
    alice = await b.join("alice")
    for number in range(50):
        await (a if number % 2 else b).messenger.to_user("alice", "n", number)
    await until(lambda: len(events_of(alice)) == 50)
    assert [event["event"] for event in events_of(alice)] == list(range(50))
    offsets = [int(event["id"].rsplit("/", 1)[1]) for event in events_of(alice)]
    assert offsets == list(range(1, 51))


async def test_hello_contains_the_position_of_the_newest_message(start: StartInstance) -> None:
    a = await start()
    sent = await a.messenger.to_user("alice", "before", None)
    alice = await a.join("alice")
    assert isinstance(alice.transport, RecordingTransport)
    hello = alice.transport.messages()[0]["payload"]["event"]
    assert hello["positions"]["user"] == sent.id
    assert hello["positions"]["all"].startswith("all/")


async def test_to_all_reaches_every_connection_and_counts_what_instances_report(
    start: StartInstance,
) -> None:
    a, b = await start(), await start()
    connections = [await a.join("alice"), await b.join("bob"), await b.join("carol")]
    await b.index.renew()
    await a.index.renew()
    sent = await a.messenger.to_all("tea", "ready")
    await until(lambda: all(events_of(connection) for connection in connections))
    assert sent.addressed == 3
    assert {events_of(connection)[0]["id"] for connection in connections} == {sent.id}


async def test_to_users_sends_once_to_each_user(start: StartInstance) -> None:
    a, b = await start(), await start()
    alice, bob = await a.join("alice"), await b.join("bob")
    sent = await a.messenger.to_users(["alice", "bob", "alice", "nobody"], "x", 1)
    await until(lambda: bool(events_of(alice)) and bool(events_of(bob)))
    assert [one.addressed for one in sent] == [1, 1, 0]
    assert len(events_of(alice)) == 1


async def test_to_connection_reaches_a_connection_on_another_instance(start: StartInstance) -> None:
    a, b = await start(), await start()
    first, second = await b.join("alice"), await b.join("alice")
    await a.index.renew()
    sent = await a.messenger.to_connection(first.id, "only", "you")
    await until(lambda: bool(events_of(first)))
    assert (sent.id, sent.addressed) == (None, 1)
    assert events_of(first) == [{"topic": "only", "event": "you"}]
    assert events_of(second) == []
    assert (await a.messenger.to_connection("gone.x", "only", "you")).addressed == 0


async def test_closing_by_connection_user_and_all(start: StartInstance) -> None:
    a, b = await start(), await start()
    one, alice, bob, carol = (
        await a.join("one"),
        await b.join("alice"),
        await b.join("bob"),
        await a.join("carol"),
    )
    for instance in (a, b, a):
        await instance.index.renew()
    assert await b.messenger.close_connection("gone.x") == 0
    assert await b.messenger.close_connection(one.id, CloseCode.REVOKED) == 1
    await until(lambda: closed_with(one) == CloseCode.REVOKED)
    assert await a.messenger.close_users(["alice", "bob"]) == [1, 1]
    await until(lambda: closed_with(alice) == closed_with(bob) == CloseCode.REVOKED)
    assert closed_with(carol) is None
    assert await a.messenger.close_all() == 4
    await until(lambda: closed_with(carol) == CloseCode.DRAIN)


async def test_an_idempotency_key_sends_once(start: StartInstance) -> None:
    a = await start()
    alice = await a.join("alice")
    first = await a.messenger.to_user("alice", "paid", 1, idempotency_key="k")
    again = await a.messenger.to_user("alice", "paid", 1, idempotency_key="k")
    await a.messenger.to_user("alice", "marker", None)
    await until(lambda: len(events_of(alice)) == 2)
    assert first == again


async def test_an_idempotent_messenger_numbers_its_sends(start: StartInstance) -> None:
    """An event handler that sends two messages sends both; run again, it sends nothing."""
    a = await start()
    alice = await a.join("alice")
    for _ in range(2):
        messenger = a.messenger.idempotent("event-7/handler", 60)
        await messenger.to_user("alice", "first", None)
        await messenger.to_user("alice", "second", None)
    await a.messenger.to_user("alice", "marker", None)
    await until(lambda: len(events_of(alice)) >= 3)
    assert [event["topic"] for event in events_of(alice)] == ["first", "second", "marker"]


async def test_an_idempotent_messenger_may_send_to_its_users_in_another_order(
    start: StartInstance,
) -> None:
    """Such as the order of a set, which differs between processes."""
    a = await start()
    users = [f"user-{number}" for number in range(9)]
    connections = [await a.join(user) for user in users]
    for order in (users, users[::-1], users[5:] + users[:5]):
        messenger = a.messenger.idempotent("event-8/handler", 60)
        await asyncio.gather(*(messenger.to_user(user, "one by one", None) for user in order))
        await messenger.to_users(order, "together", None)
        await messenger.to_all("to all", None)
    await a.messenger.to_users(users, "last of the user", None)
    await a.messenger.to_all("last of all", None)
    await until(lambda: all(len(events_of(one)) >= 5 for one in connections))
    for connection in connections:
        topics = [event["topic"] for event in events_of(connection)]
        assert sorted(topics) == sorted(
            ["one by one", "together", "last of the user", "to all", "last of all"]
        )


async def test_an_unknown_or_malformed_envelope_is_ignored(
    start: StartInstance, redis: RedisClient
) -> None:
    a = await start()
    alice = await a.join("alice")
    prefix = a.messenger._keys.prefix
    await redis.publish(f"{prefix}:all", "dance\nalice\n")
    await redis.publish(f"{prefix}:all", "user\n")
    await a.messenger.to_all("marker", None)
    await until(lambda: bool(events_of(alice)))


async def test_user_ids_may_contain_any_characters(start: StartInstance) -> None:
    a = await start()
    for user_id in ("a b", "ü{x}*", "../..", "a:b|c"):
        connection = await a.join(user_id)
        sent = await a.messenger.to_user(user_id, "x", 1)
        await until(lambda connection=connection: bool(events_of(connection)))  # type: ignore[misc]
        assert sent.addressed == 1


async def test_streams_have_a_maximum_length_and_expire(
    start: StartInstance, redis: RedisClient
) -> None:
    a = await start()
    await a.join("alice")
    for number in range(230):
        await a.messenger.to_user("alice", "n", number)
    keys = a.messenger._keys.user("alice")
    assert await redis.xlen(keys.stream) == 200
    assert await redis.ttl(keys.stream) <= 600
    assert await redis.ttl(keys.meta) > 23 * 3600


class Drawing(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    brush: object


@pytest.mark.parametrize(
    "event",
    [object(), {"a": {1, 2}}, {"half": "\ud83d"}, {"large": 1 << 64}, Drawing(brush=object())],
    ids=["object", "set", "surrogate", "integer", "model"],
)
async def test_an_event_that_is_not_json_is_a_problem(start: StartInstance, event: Any) -> None:
    messenger = (await start()).messenger
    for send in (
        messenger.to_user("alice", "news", event),
        messenger.to_users(["alice"], "news", event),
        messenger.to_all("news", event),
        messenger.to_topic("news", event),
        messenger.to_connection(f"{'0' * 12}.{'0' * 16}", "news", event),
    ):
        with pytest.raises(Problem, match="not JSON") as caught:
            await send
        assert caught.value.code is Code.INVALID_PARAMS


async def test_an_event_that_is_too_large_is_a_problem(
    start: StartInstance, settings: Settings
) -> None:
    """Whether it is stored or not: no client could get it."""
    a = await start()
    alice = await a.join("alice")
    text = "x" * settings.max_queue_bytes
    for send in (
        a.messenger.to_user("alice", "n", text),
        a.messenger.to_all("n", text),
        a.messenger.to_user("alice", TYPING(text)),
        a.messenger.to_all(TYPING(text)),
    ):
        with pytest.raises(Problem) as caught:
            await send
        assert caught.value.code is Code.SERVICE_ERROR
    await a.messenger.to_user("alice", "marker", None)
    await until(lambda: bool(events_of(alice)))
    assert [event["topic"] for event in events_of(alice)] == ["marker"]


async def test_a_message_of_exactly_the_largest_size_is_sent(
    start: StartInstance, settings: Settings
) -> None:
    a = await start()
    alice = await a.join("alice")
    assert await a.messenger.to_user("alice", TYPING("")) == Sent(None, 1)
    await until(lambda: len(events_of(alice)) == 1)
    assert isinstance(alice.transport, RecordingTransport)
    room = settings.max_queue_bytes - len(alice.transport.frames[-1].payload)
    with pytest.raises(Problem, match="MAX_QUEUE_BYTES"):
        await a.messenger.to_user("alice", TYPING("x" * (room + 1)))
    await a.messenger.to_user("alice", TYPING("x" * room))
    await until(lambda: len(events_of(alice)) == 2)


async def test_a_list_with_an_invalid_user_concerns_nobody(start: StartInstance) -> None:
    a = await start()
    alice, users = await a.join("alice"), ["alice", "two\nlines"]
    for send in (
        a.messenger.to_users(users, "n", 1),
        a.messenger.to_users(users, TYPING("")),
        a.messenger.close_users(users),
    ):
        with pytest.raises(Problem) as caught:
            await send
        assert caught.value.code is Code.INVALID_PARAMS
    await a.messenger.to_user("alice", "marker", None)
    await until(lambda: bool(events_of(alice)))
    assert [event["topic"] for event in events_of(alice)] == ["marker"]
    assert alice.close_code is None


async def test_deliveries_are_counted_by_connection(start: StartInstance) -> None:
    a = await start()
    connections = [await a.join(user) for user in ("alice", "alice", "bob")]
    before = a.metric("bff_deliveries_total")
    await a.messenger.to_user("alice", "n", 1)
    await a.messenger.to_all("n", 2)
    await until(lambda: all(events_of(one)[-1:] for one in connections))
    await until(lambda: a.metric("bff_deliveries_total") == before + 5)
    await a.messenger.to_connection(connections[0].id, "n", 3)
    await a.messenger.to_user("alice", TYPING(""))
    await until(lambda: a.metric("bff_deliveries_total") == before + 8)


async def test_messages_are_counted_by_their_recipient(start: StartInstance) -> None:
    a = await start()
    await a.messenger.to_user("alice", "n", 1)
    await a.messenger.to_users(["alice", "bob", "alice"], "n", 1)
    await a.messenger.to_connection("gone.x", "n", 1)
    await a.messenger.to_all("n", 1)
    for _ in range(2):
        await a.messenger.to_topic("n", 1)
    counts = {
        to: a.metrics.registry.get_sample_value("bff_messages_sent_total", {"audience": to})
        for to in ("user", "connection", "all", "topic")
    }
    assert counts == {"user": 3, "connection": 1, "all": 1, "topic": 2}


async def test_one_user_in_place_of_a_list_is_refused(start: StartInstance) -> None:
    a = await start()
    with pytest.raises(TypeError, match="is a text"):
        await a.messenger.to_users("alice", "prices", 1)
    with pytest.raises(TypeError, match="is a text"):
        await a.messenger.close_users("alice")
    with pytest.raises(TypeError, match="is a text"):
        await a.presence.of("alice")


async def test_a_message_to_a_connection_has_the_same_limit_as_all(
    start: StartInstance, settings: Settings
) -> None:
    a = await start()
    alice = await a.join("alice")
    with pytest.raises(Problem, match="MAX_QUEUE_BYTES"):
        await a.messenger.to_connection(alice.id, "prices", "x" * settings.max_queue_bytes)
    assert alice.close_code is None
