"""Declared events: their payloads, and those that are not stored."""

from __future__ import annotations

from typing import Any

import pytest
from bff.cluster.control_log import ControlLog
from bff.cluster.messenger import Messenger
from bff.connections.connection import Connection
from bff.connections.declared_events import DeclaredEvents, EventType
from bff.errors import Problem
from bff.testing import until
from pydantic import BaseModel, Field

from tests.engine.cluster.conftest import ClusterMember, StartInstance
from tests.engine.doubles import RecordingTransport


class Order(BaseModel):
    number: int = Field(alias="orderNumber")
    price: float = 1.5


class Internal(Order):
    margin: int = 7


ORDER = Order(orderNumber=1)
ON_WIRE = {"orderNumber": 1, "price": 1.5}
WRONG_FIELD: Any = Order.model_construct(number="one")  # type: ignore[arg-type]
updated = EventType("order.updated", Order, stored=True)
typing = EventType("typing", str, stored=False)
room_message = EventType("rooms.*", Order, stored=True)
cursor = EventType("cursors.#", int, stored=False)


def events_of(connection: Connection) -> list[dict[str, Any]]:
    assert isinstance(connection.transport, RecordingTransport)
    return [message["payload"] for message in connection.transport.messages()[1:]]


async def test_a_declared_event_is_sent_by_its_name_and_the_aliases_of_its_model(
    start: StartInstance,
) -> None:
    a, b = await start(), await start()
    alice = await b.join("alice")
    sends = [
        (await a.messenger.to_user("alice", updated(ORDER))).id,
        (await a.messenger.to_users(["alice"], updated(ORDER)))[0].id,
        (await a.messenger.to_all(updated(ORDER))).id,
        (await a.messenger.to_connection(alice.id, updated(ORDER))).id,
    ]
    await until(lambda: len(events_of(alice)) == 4)
    expected = [{"topic": "order.updated", "event": ON_WIRE, "id": one} for one in sends]
    expected[3].pop("id")
    received = sorted(events_of(alice), key=lambda one: str(one.get("id", "z")))
    assert received == sorted(expected, key=lambda one: str(one.get("id", "z")))


async def test_a_pattern_is_sent_to_a_topic_that_it_matches(start: StartInstance) -> None:
    a = await start()
    alice = await a.join("alice")
    await a.subscriptions.subscribe(alice, {"rooms.kitchen": None})
    sent = await a.messenger.to_topic("rooms.kitchen", room_message(ORDER))
    await until(lambda: bool(events_of(alice)))
    assert events_of(alice) == [{"topic": "rooms.kitchen", "event": ON_WIRE, "id": sent}]
    with pytest.raises(ValueError, match="cannot be sent as"):
        await a.messenger.to_topic("orders.latest", room_message(ORDER))
    with pytest.raises(ValueError, match="name one of them"):
        await a.messenger.to_topic(room_message(ORDER))


async def test_a_payload_of_another_type_is_refused_and_a_subclass_sends_no_more(
    start: StartInstance,
) -> None:
    a = await start()
    alice = await a.join("alice")
    for wrong in ({"orderNumber": 1}, 7, WRONG_FIELD):
        with pytest.raises(ValueError, match="serializ"):
            await a.messenger.to_user("alice", updated(wrong))  # type: ignore[arg-type]
    await a.messenger.to_user("alice", updated(Internal(orderNumber=1)))
    await a.messenger.to_user("alice", updated(Order(orderNumber=2, price=float("nan"))))
    await until(lambda: len(events_of(alice)) == 2)
    assert [one["event"] for one in events_of(alice)] == [
        ON_WIRE,
        {"orderNumber": 2, "price": None},
    ]


async def test_a_model_can_be_sent_without_a_declaration(start: StartInstance) -> None:
    a = await start()
    alice = await a.join("alice")
    await a.messenger.to_user("alice", "order.updated", ORDER)
    await until(lambda: bool(events_of(alice)))
    assert events_of(alice)[0]["event"] == ON_WIRE


async def streams(member: ClusterMember) -> list[Any]:
    keys = member.context.keys
    lengths = [keys.user("alice"), keys.all, keys.topic("cursors.a.b")]
    return [await member.context.pipeline.submit("EXISTS", one.stream) for one in lengths]


async def test_what_is_not_stored_reaches_connected_clients_only_and_takes_no_place_in_a_stream(
    start: StartInstance,
) -> None:
    a, b = await start(), await start()
    alice, other, bob = await a.join("alice"), await b.join("alice"), await b.join("bob")
    for member, one in ((a, alice), (b, other)):
        await member.subscriptions.subscribe(one, {"cursors.a.b": None})
        await until(lambda member=member: len(member.streams.subscribers("cursors.a.b")) == 1)  # type: ignore[misc]
    sent = await a.messenger.to_user("alice", typing("user"))
    assert (sent.id, sent.addressed) == (None, 2)
    assert (await a.messenger.to_all(typing("all"))).id is None
    (to_alice, to_bob) = await a.messenger.to_users(["alice", "bob"], typing("users"))
    assert (to_alice.addressed, to_bob.addressed) == (2, 1)
    assert await a.messenger.to_topic("cursors.a.b", cursor(7)) == ""
    everything = {("typing", "user"), ("typing", "all"), ("typing", "users"), ("cursors.a.b", 7)}
    for one in (alice, other):
        await until(lambda one=one: len(events_of(one)) == 4)  # type: ignore[misc]
        assert {(event["topic"], event["event"]) for event in events_of(one)} == everything
        assert all("id" not in event for event in events_of(one))
    await until(lambda: len(events_of(bob)) == 2)
    assert await streams(a) == [0, 0, 0]


async def test_what_is_not_stored_takes_no_idempotency_key(start: StartInstance) -> None:
    a = await start()
    with pytest.raises(ValueError, match="not stored"):
        await a.messenger.to_user("alice", typing("x"), idempotency_key="k")


@pytest.fixture
async def strict(start: StartInstance) -> Messenger:
    member = await start()
    declared = DeclaredEvents([updated, typing, room_message], required=True)
    return Messenger(
        member.context, member.index, ControlLog(member.context), member.revocations, declared
    )


async def test_when_declarations_are_required_others_are_refused(strict: Messenger) -> None:
    await strict.to_user("alice", updated(ORDER))
    await strict.to_user("alice", "order.updated", ON_WIRE)
    await strict.to_topic("rooms.kitchen", ORDER)
    assert (await strict.to_user("alice", "typing", "x")).id is None
    undeclared = (
        strict.to_user("alice", "order.paid", ON_WIRE),
        strict.to_user("alice", "order.updated", {"number": "one"}),
        strict.to_topic("orders.latest", ORDER),
        strict.to_all("typing", 7),
        strict.to_user("alice", EventType("order.updated", Order, stored=True)(ORDER)),
        strict.to_topic("cursors.a", cursor(7)),
    )
    for send in undeclared:
        with pytest.raises(Problem) as refused:
            await send
        assert refused.value.code == "invalid_params"
