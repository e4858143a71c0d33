"""What a consumer does with a message that it does not handle: nothing is lost or repeated."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import aiormq
import pytest
from aiormq.exceptions import DeliveryError
from bff.mesh.events import EventHandler
from bff.mesh.messages import Delivery, MalformedMessage
from bff.mesh.rabbitmq.event_queue import EventConsumer
from bff.mesh.rabbitmq.service_queue import ServiceConsumer
from bff.mesh.service import Service
from bff.mesh.transport import ConnectionLost
from bff.settings import Settings


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
        correlation_id="c", expiration="5000", headers={"x-delivery-count": 1, "trace_id": "t"}
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
    """Answers calls with nothing, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def on_call(self, service: Service, delivery: Delivery) -> None:
        if self.error is not None:
            raise self.error


async def nowhere(_: Any) -> None: ...


def service_consumer(settings: Settings, error: Exception | None = None) -> ServiceConsumer:
    receiver: Any = Receiver(error)
    return ServiceConsumer(settings, Service("shop"), receiver, nowhere)


@pytest.mark.parametrize("error", [MalformedMessage("no JSON"), ValueError("a bug")], ids=repr)
async def test_a_call_that_fails_moves_to_the_dead_letters(
    settings: Settings, error: Exception
) -> None:
    channel: Any = Channel()
    await service_consumer(settings, error).receive(channel, message())
    assert channel.sent == [("reject", {"tag": 7, "requeue": False, "wait": False})]


async def test_a_call_that_is_carried_out_is_acknowledged(settings: Settings) -> None:
    channel: Any = Channel()
    await service_consumer(settings).receive(channel, message())
    assert channel.sent == [("ack", {"tag": 7, "wait": False})]


@pytest.mark.parametrize("is_full", [False, True])
async def test_a_redelivered_call_is_moved_or_comes_back(settings: Settings, is_full: bool) -> None:
    channel: Any = Channel(is_full=is_full)
    one = message(redelivered=True)
    await service_consumer(settings).receive(channel, one)
    published, settled = channel.sent
    assert published[1]["routing_key"] == "shop.redelivered-calls.v1"
    assert published[1]["mandatory"]
    assert published[1]["properties"] is one.header.properties
    if is_full:
        assert settled == ("reject", {"tag": 7, "requeue": True, "wait": False})
    else:
        assert settled == ("ack", {"tag": 7, "wait": False})


async def handle(_: Any) -> None: ...


@pytest.mark.parametrize("is_full", [False, True])
async def test_an_event_moves_to_the_dead_letters_or_is_kept(
    settings: Settings, is_full: bool
) -> None:
    channel: Any = Channel(is_full=is_full)
    receiver: Any = Receiver()
    consumer = EventConsumer(settings, EventHandler("first", "shop.paid", handle), receiver)
    one, delivery = message(b"event"), Delivery("shop.paid", b"event", "c")
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
    assert (death["queue"], death["reason"], death["routing-keys"], death["count"]) == (
        f"{settings.app_name}.events.first.v1",
        "rejected",
        ["shop.paid"],
        1,
    )
    assert "x-delivery-count" not in headers
    assert headers["trace_id"] == "t"
    assert published["properties"].expiration is None, "a dead letter must not expire"
    assert one.header.properties.headers["x-delivery-count"] == 1, "the original stays as it was"
