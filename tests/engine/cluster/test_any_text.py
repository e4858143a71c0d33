"""Any text as user id, topic, event name or connection id: it comes out as it went in, on another
instance and after a reconnect too, or it is refused with `invalid_params`."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from bff.cluster.keys import Keys, StreamKeys
from bff.connections.connection import Connection
from bff.errors import Code, Problem
from bff.redis.client import create_client
from bff.settings import Settings
from bff.testing import until
from hypothesis import assume, example, given
from hypothesis import settings as tries
from hypothesis import strategies as st

from tests.engine.any_text import TEXTS, every_example, is_text, is_topic
from tests.engine.cluster.conftest import ClusterMember, running
from tests.engine.doubles import RecordingTransport

_numbers = itertools.count(1)


def new_user() -> str:
    """Examples share instances: what is sent to a user of one must not reach the next."""
    return f"user-{next(_numbers)}"


async def refused(*sends: Awaitable[Any]) -> None:
    """Every one of them raises `invalid_params`."""
    for send in sends:
        with pytest.raises(Problem) as refusal:
            await send
        assert refusal.value.code is Code.INVALID_PARAMS
        assert refusal.value.description.encode()


def events_of(connection: Connection) -> list[dict[str, Any]]:
    assert isinstance(connection.transport, RecordingTransport)
    return [message["payload"] for message in connection.transport.messages()[1:]]


async def received(connection: Connection, count: int = 1) -> list[dict[str, Any]]:
    await until(lambda: len(events_of(connection)) >= count)
    return events_of(connection)


@asynccontextmanager
async def two_members(settings: Settings) -> AsyncIterator[tuple[ClusterMember, ClusterMember]]:
    redis = create_client(settings.redis_url)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(redis.aclose)
        a = await stack.enter_async_context(running(ClusterMember(redis, settings)))
        b = await stack.enter_async_context(running(ClusterMember(redis, settings)))
        yield a, b


@pytest.fixture
async def members(settings: Settings) -> AsyncIterator[tuple[ClusterMember, ClusterMember]]:
    async with two_members(settings) as pair:
        yield pair


Members = tuple[ClusterMember, ClusterMember]


@every_example
async def test_user_ids(members: Members, text: str) -> None:
    a, b = members
    if not is_text(text, 128):
        await refused(
            a.messenger.to_user(text, "t", 1),
            a.messenger.to_users(["alice", text], "t", 1),
            a.messenger.subscribe(text, "t"),
            a.messenger.unsubscribe(text, "t"),
            a.messenger.close_user(text),
            a.messenger.close_users(["alice", text]),
            a.index.connections_of(text),
            a.presence.of([text]),
        )
        return
    connection = await b.join(text)
    first = await a.messenger.to_user(text, "t", text)
    assert first.addressed == 1
    assert await received(connection) == [{"topic": "t", "event": text, "id": first.id}]
    key = f"{text}{first.id}"  # of this example alone: a text may come twice
    second = await b.messenger.to_user(text, "t", 2, idempotency_key=key)
    assert await b.messenger.to_user(text, "t", 2, idempotency_key=key) == second
    again = await a.join(text, since=str(first.id))
    assert [event["id"] for event in events_of(again)] == [second.id]
    found = await a.index.connections_of(text)
    assert {facts.connection_id for facts in found} == {connection.id, again.id}
    await a.messenger.close_user(text)
    await until(lambda: connection.close_code is not None and again.close_code is not None)
    await a.leave(again)
    await b.leave(connection)
    assert await a.index.connections_of(text) == []


@every_example
async def test_topics(members: Members, text: str) -> None:
    a, b = members
    user_id = new_user()
    if not is_topic(text):
        await refused(
            a.messenger.to_topic(text, 1),
            a.messenger.subscribe(user_id, text),
            a.messenger.unsubscribe(user_id, text),
        )
        return
    first = await a.messenger.to_topic(text, text)
    assert first.startswith(f"topic:{text}/")
    connection = await b.join(user_id)
    await b.subscriptions.subscribe(connection, {text: None})
    second = await a.messenger.to_topic(text, text)
    assert await received(connection) == [{"topic": text, "event": text, "id": second}]
    await b.leave(connection)

    again = await a.join(user_id)
    await a.messenger.subscribe(user_id, text)
    ((subscribed,),) = [await received(again)]
    assert subscribed["event"] == {"positions": {f"topic:{text}": second}}
    await b.messenger.unsubscribe(user_id, text)
    assert (await received(again, 2))[1]["event"] == {"topics": [text]}
    await a.leave(again)


@every_example
async def test_event_names(members: Members, text: str) -> None:
    a, b = members
    user_id = new_user()
    connection = await b.join(user_id)
    if not is_text(text, 255):
        await refused(
            a.messenger.to_user(user_id, text, 1),
            a.messenger.to_users([user_id], text, 1),
            a.messenger.to_all(text, 1),
            a.messenger.to_connection(connection.id, text, 1),
        )
    else:
        to_user = await a.messenger.to_user(user_id, text, 1)
        await received(connection)
        await a.messenger.to_connection(connection.id, text, 2)
        await received(connection, 2)
        to_all = await a.messenger.to_all(text, 3)
        assert await received(connection, 3) == [
            {"topic": text, "event": 1, "id": to_user.id},
            {"topic": text, "event": 2},
            {"topic": text, "event": 3, "id": to_all.id},
        ]
    await b.leave(connection)


@every_example
async def test_idempotency_keys(members: Members, text: str) -> None:
    a, _ = members
    if is_text(text, 1000):
        sent = await a.messenger.to_topic("t", 1, idempotency_key=text)
        assert await a.messenger.to_topic("t", 1, idempotency_key=text) == sent
    else:
        await refused(a.messenger.to_topic("t", 1, idempotency_key=text))


@every_example
async def test_connection_ids(members: Members, text: str) -> None:
    """No text is a connection id; an id with something added is none either."""
    a, b = members
    connection = await b.join(new_user())
    for malformed in (text, f"{connection.id}\n{text}", f"{text}.{connection.id}"):
        await refused(
            a.messenger.to_connection(malformed, "t", 1), a.messenger.close_connection(malformed)
        )
    await a.messenger.to_connection(connection.id, "t", text.encode("utf-8", "ignore").decode())
    assert len(await received(connection)) == 1
    await b.leave(connection)


def all_keys(keys: Keys, name: str) -> list[str]:
    """Every key that a user id or a topic is part of."""

    def of(stream: StreamKeys) -> list[str]:
        idempotency = [stream.idempotency(key) for key in ("", "k", "k}:meta")]
        return [stream.meta, stream.stream, *idempotency]

    return [keys.connections(name), *of(keys.user(name)), *of(keys.topic(name))]


@tries(derandomize=True, deadline=None, max_examples=300)
@given(one=TEXTS, other=TEXTS, between=st.sampled_from(["", "}:meta", "}:idem:k", "%7D", "}", "{"]))
@example(one="a", other="", between="}:idem:k")
def test_different_names_have_different_keys(one: str, other: str, between: str) -> None:
    keys = Keys("bff:v1")
    longer = f"{one}{between}{other}"
    assume(longer != one)
    every = all_keys(keys, one) + all_keys(keys, longer)
    assert len(set(every)) == len(every)


@tries(derandomize=True, deadline=None, max_examples=100)
@given(name=TEXTS.filter(bool))
def test_the_keys_of_a_user_are_in_one_slot(name: str) -> None:
    """The hash tag of Redis Cluster is the text between the first `{` and the next `}`."""
    keys = Keys("bff:v1")
    every = [keys.connections(name), *keys.user(name)[1:3], keys.user(name).idempotency(name)]
    tags = {key.partition("{")[2].partition("}")[0] for key in every}
    assert len(tags) == 1
    assert all(key.startswith(f"bff:v1:{{{tag}}}:") for key in every for tag in tags)
