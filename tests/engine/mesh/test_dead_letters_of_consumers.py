"""What a consumer does with each message: nothing is lost or repeated."""

from __future__ import annotations

import asyncio
import struct
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import aiormq
import pamqp.decode
import pamqp.frame
import pytest
from aiormq.exceptions import DeliveryError
from bff.mesh.events import EventHandler
from bff.mesh.messages import Delivery, Kind, MalformedMessage, Message
from bff.mesh.rabbitmq import service_queue
from bff.mesh.rabbitmq.consumer import republished, to_delivery
from bff.mesh.rabbitmq.event_queue import EventConsumer
from bff.mesh.rabbitmq.service_queue import RedeliveredCalls, ServiceConsumer
from bff.mesh.service import Service
from bff.mesh.transport import ConnectionLost, Nacked, Unroutable
from bff.settings import Settings
from pamqp.header import ContentHeader


@pytest.fixture
def amqp_url() -> str:
    return "memory://"


class Channel:
    """Records what is sent; refuses to publish where the test says so."""

    def __init__(self, *, is_full: bool = False) -> None:
        self.is_full = is_full
        self.sent: list[tuple[str, dict[str, Any]]] = []

    async def basic_publish(self, body: bytes, **options: Any) -> None:
        self.sent.append(("publish", {"body": body, **options}))
        if self.is_full:
            raise DeliveryError(None, None)  # type: ignore[arg-type]

    async def basic_ack(self, tag: int, **options: Any) -> None:
        self.sent.append(("ack", {"tag": tag, **options}))

    async def basic_reject(self, tag: int, **options: Any) -> None:
        self.sent.append(("reject", {"tag": tag, **options}))


def message(body: bytes = b"{}", *, redelivered: bool = False) -> Any:
    properties = aiormq.spec.Basic.Properties(
        correlation_id="c",
        expiration="5000",
        user_id="orders",
        headers={"x-delivery-count": 1, "trace_id": "t", "CC": ["a"], "BCC": ["b"]},
    )
    return SimpleNamespace(
        body=body,
        delivery_tag=7,
        exchange="",
        routing_key="shop",
        redelivered=redelivered,
        header=SimpleNamespace(properties=properties),
    )


class Receiver:
    """Answers calls with `reply`, or fails."""

    def __init__(self, error: BaseException | None = None, reply: Message | None = None) -> None:
        self.error = error
        self.reply = reply

    async def on_call(self, service: Service, delivery: Delivery) -> Message | None:
        if self.error is not None:
            raise self.error
        return self.reply


async def nowhere(_: Any) -> None: ...


def service_consumer(settings: Settings, error: BaseException | None = None) -> ServiceConsumer:
    receiver: Any = Receiver(error)
    return ServiceConsumer(settings, Service("shop"), receiver, nowhere)


@pytest.mark.parametrize(
    "error",
    [MalformedMessage("no JSON"), ValueError("a bug"), asyncio.CancelledError()],
    ids=repr,
)
async def test_a_call_that_fails_moves_to_the_dead_letters(
    settings: Settings, error: BaseException
) -> None:
    """The last error is that of a task that the method awaits."""
    channel: Any = Channel()
    await service_consumer(settings, error).receive(channel, message())
    assert channel.sent == [("reject", {"tag": 7, "requeue": False, "wait": False})]


async def test_a_call_that_is_carried_out_is_acknowledged(settings: Settings) -> None:
    channel: Any = Channel()
    await service_consumer(settings).receive(channel, message())
    assert channel.sent == [("ack", {"tag": 7, "wait": False})]


@pytest.mark.parametrize(
    "error",
    [None, ConnectionLost(), Unroutable(), Nacked(), ValueError("too long"), "hangs"],
    ids=repr,
)
async def test_a_call_whose_reply_is_lost_is_acknowledged_too(
    settings: Settings, caplog: pytest.LogCaptureFixture, error: Any
) -> None:
    """Its work is done. A reply that cannot be sent is given up at its deadline."""
    left = 0.05 if error == "hangs" else 60
    deadline = asyncio.get_running_loop().time() + left
    reply = Message(Kind.RESPONSE, "r", b"{}", "c", "t", deadline)
    sent: list[Message] = []

    async def publish(message: Message) -> None:
        sent.append(message)
        if error == "hangs":
            await asyncio.Event().wait()
        elif error is not None:
            raise error

    receiver: Any = Receiver(reply=reply)
    channel: Any = Channel()
    consumer = ServiceConsumer(settings, Service("shop"), receiver, publish)
    async with asyncio.timeout(10):
        await consumer.receive(channel, message())
    assert sent == [reply]
    assert channel.sent == [("ack", {"tag": 7, "wait": False})]
    lost = [vars(one)["reason"] for one in caplog.records if one.message == "reply lost"]
    words = [str(error) if str(error) == "too long" else "no connection in time"]
    assert lost == ([] if error is None else words)


async def test_a_call_whose_consumer_is_stopped_is_neither_answered_nor_lost(
    settings: Settings,
) -> None:
    channel: Any = Channel()
    begun = asyncio.Event()
    consumer = service_consumer(settings)

    async def hang(*_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    consumer._receiver.on_call = hang  # type: ignore[assignment, method-assign]
    call = asyncio.create_task(consumer.receive(channel, message()))
    await begun.wait()
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()
    assert channel.sent == []


async def test_a_call_that_was_moved_is_tried_each_time_it_comes(settings: Settings) -> None:
    receiver: Any = Receiver()
    channel: Any = Channel()
    consumer = RedeliveredCalls(settings, Service("shop"), receiver, nowhere)
    await consumer.receive(channel, message(redelivered=True))
    assert channel.sent == [("ack", {"tag": 7, "wait": False})]


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({}, {}),
        ({"correlation_id": "c", "message_id": "m"}, {"correlation_id": "c"}),
        ({"message_id": "m", "reply_to": "r"}, {"correlation_id": "m", "reply_to": "r"}),
        ({"headers": {"trace_id": "x" * 255}}, {"trace_id": "x" * 255}),
        ({"headers": {"trace_id": "x" * 256}}, {}),
        ({"headers": {"trace_id": 7, "nuropb_type": 7, "x-delivery-count": "7"}}, {}),
        ({"headers": {"nuropb_type": "request"}}, {"kind": "request"}),
        ({"headers": {"x-delivery-count": 7}}, {"deliveries": 7}),
        ({"headers": {"bff_topic": "shop.paid"}}, {"routing_key": "shop.paid"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("exchange", ["", "nuropb-events-exchange"])
def test_properties_of_any_type_are_read(
    properties: dict[str, Any], expected: dict[str, Any], exchange: str
) -> None:
    """Only what comes from no exchange can be a dead letter that is delivered again."""
    one = message()
    one.header.properties = aiormq.spec.Basic.Properties(**properties)
    one.exchange = exchange
    if exchange:
        expected = {name: value for name, value in expected.items() if name != "routing_key"}
    plain = {"routing_key": "shop", "body": b"{}", "correlation_id": ""}
    assert to_delivery(one) == Delivery(**{**plain, **expected})


@pytest.mark.parametrize("is_full", [False, True])
async def test_a_redelivered_call_is_moved_or_comes_back(settings: Settings, is_full: bool) -> None:
    channel: Any = Channel(is_full=is_full)
    one = message(redelivered=True)
    await service_consumer(settings).receive(channel, one)
    published, settled = channel.sent
    assert published[1]["routing_key"] == "shop.redelivered-calls.v1"
    assert published[1]["mandatory"]
    properties = published[1]["properties"]
    assert (properties.correlation_id, properties.expiration) == ("c", "5000")
    assert properties.user_id is None, "RabbitMQ refuses the name of another user"
    assert properties.headers == {"trace_id": "t"}
    if is_full:
        assert settled == ("reject", {"tag": 7, "requeue": True, "wait": False})
    else:
        assert settled == ("ack", {"tag": 7, "wait": False})


async def test_a_redelivered_call_is_held_until_the_other_queue_has_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a channel that stays open it would not be delivered again: nobody would have it."""
    monkeypatch.setattr(service_queue, "BROKER_SECONDS", 0.01)
    confirmed = asyncio.Event()

    class Stalled(Channel):
        async def basic_publish(self, body: bytes, **options: Any) -> None:
            await confirmed.wait()

    channel: Any = Stalled()
    moving = asyncio.create_task(
        service_consumer(settings).receive(channel, message(redelivered=True))
    )
    await asyncio.wait([moving], timeout=0.1)
    assert not moving.done()
    confirmed.set()
    await moving
    assert channel.sent == [("ack", {"tag": 7, "wait": False})]


@pytest.mark.parametrize(
    ("received", "published"),
    [
        (b"S\x00\x00\x00\x02\xff\xfe", bytearray(b"\xff\xfe")),
        (b"x\x00\x00\x00\x02\xff\xfe", bytearray(b"\xff\xfe")),
        (b"d" + struct.pack("!d", 1e300), "1e+300"),
        (b"d" + struct.pack("!d", 0.5), 0.5),
        (b"D\x01" + (-15).to_bytes(4, signed=True), Decimal("-1.5")),
        (b"A\x00\x00\x00\x06S\x00\x00\x00\x01\xff", [bytearray(b"\xff")]),
        (b"F\x00\x00\x00\x08\x01aS\x00\x00\x00\x01\xff", {"a": bytearray(b"\xff")}),
        (b"V", None),
    ],
    ids=repr,
)
def test_what_was_received_can_be_published_again(received: bytes, published: Any) -> None:
    """pamqp decodes more than it encodes."""
    table = b"\x01h" + received
    _, headers = pamqp.decode.field_table(len(table).to_bytes(4) + table)
    properties = republished(aiormq.spec.Basic.Properties(headers=headers))
    assert properties.headers == {"h": published}
    pamqp.frame.marshal(ContentHeader(0, 0, properties), 1)


async def handle(_: Any) -> None: ...


@pytest.mark.parametrize("is_full", [False, True])
async def test_an_event_moves_to_the_dead_letters_or_is_kept(
    settings: Settings, is_full: bool
) -> None:
    channel: Any = Channel(is_full=is_full)
    receiver: Any = Receiver()
    consumer = EventConsumer(settings, EventHandler("first", "shop.paid", handle), receiver)
    one, delivery = message(b"event"), Delivery("shop.paid", b"event", "c")
    one.exchange = "events"
    if is_full:
        with pytest.raises(ConnectionLost, match="dead letters does not exist"):
            await consumer._move(channel, one, delivery)
        return
    await consumer._move(channel, one, delivery)
    ((_, published),) = channel.sent
    assert published["mandatory"], "without the queue it must come back"
    assert published["body"] == b"event"
    assert published["routing_key"] == f"{settings.app_name}.dead-letters.v1"
    headers = published["properties"].headers
    (death,) = headers["x-death"]
    facts = ("queue", "reason", "exchange", "routing-keys", "count")
    assert tuple(death[fact] for fact in facts) == (
        f"{settings.app_name}.events.first.v1",
        "rejected",
        "events",
        ["shop.paid"],
        1,
    )
    assert headers.keys() == {"x-death", "trace_id"}
    assert published["properties"].user_id is None, "RabbitMQ refuses the name of another user"
    assert published["properties"].expiration is None, "a dead letter must not expire"
    assert one.header.properties.headers["x-delivery-count"] == 1, "the original stays as it was"
