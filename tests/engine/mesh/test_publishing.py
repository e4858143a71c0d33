"""What the transport sends, when it waits, and whether a message counts as sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pamqp.frame
import pytest
from bff.mesh.events import EventHandler
from bff.mesh.messages import Kind, Message
from bff.mesh.rabbitmq import transport
from bff.mesh.rabbitmq.fast_path import FastPath, Publisher
from bff.mesh.rabbitmq.transport import AmqpTransport
from bff.mesh.service import Service
from bff.mesh.transport import ConnectionLost, MeshStatus, Nacked, Unroutable
from bff.settings import Settings
from bff.testing import until
from pamqp import commands
from pamqp.header import ContentHeader


@pytest.fixture
def amqp_url() -> str:
    return "memory://"


class Link:
    """A connection that is there, or that is waited for."""

    def __init__(self) -> None:
        self.reason = ""
        self.usable = asyncio.Event()
        self.usable.set()

    def start(self) -> None: ...

    async def channel(self) -> None:
        await self.usable.wait()


class Wire:
    """The transport of a fast path: records what is written."""

    def __init__(self) -> None:
        self.frames: list[Any] = []

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        while data:
            size, _, frame = pamqp.frame.unmarshal(data)
            self.frames.append(frame)
            data = data[size:]


class Opened:
    """A transport with both connections, whose broker is the test."""

    def __init__(self, settings: Settings, reply_to: str = "") -> None:
        self.transport = AmqpTransport(settings)
        self.publishing, self.consuming, self.wire = Link(), Link(), Wire()
        fast_path: Any = FastPath()
        fast_path._transport = self.wire
        opened: Any = self.transport
        opened._publishing, opened._consuming = self.publishing, self.consuming
        if reply_to:
            opened._reply_to = reply_to
        self.publisher = opened._publisher = Publisher(fast_path, 1, 4096)

    def publish(self, kind: Kind) -> tuple[Message, asyncio.Task[None]]:
        deadline = asyncio.get_running_loop().time() + 60
        message = Message(kind, "shop", b"{}", "c", "t", deadline)
        return message, asyncio.create_task(self.transport.publish(message))


async def _some_turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
async def opened(settings: Settings) -> Opened:
    return Opened(settings, "replies")


@pytest.mark.parametrize(
    ("kind", "exchange"),
    [
        (Kind.REQUEST, "nuropb-rpc-exchange"),
        (Kind.COMMAND, "nuropb-rpc-exchange"),
        (Kind.EVENT, "nuropb-events-exchange"),
        (Kind.RESPONSE, ""),
    ],
)
async def test_only_calls_need_a_reply_queue_and_must_reach_a_service(
    opened: Opened, kind: Kind, exchange: str
) -> None:
    is_call = kind in (Kind.REQUEST, Kind.COMMAND)
    opened.consuming.usable.clear()
    opened.transport._reply_to = ""
    message, publishing = opened.publish(kind)
    if is_call:
        await _some_turns()
        assert not message.sent
        opened.transport._reply_to = "replies"
        opened.consuming.usable.set()
    await until(lambda: len(opened.wire.frames) == 3)
    method, header, body = opened.wire.frames
    assert (method.exchange, method.routing_key, method.mandatory) == (exchange, "shop", is_call)
    assert isinstance(header, ContentHeader)
    properties = header.properties
    assert properties.reply_to == ("replies" if is_call else None)
    assert (properties.expiration is not None) is is_call
    assert (properties.correlation_id, properties.message_id) == ("c", "c")
    assert body.value == b"{}"
    assert message.sent
    publishing.cancel()


@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.EVENT])
async def test_a_message_waits_while_it_cannot_be_published(settings: Settings, kind: Kind) -> None:
    """Also when that begins while it waits for a reply queue."""
    opened = Opened(settings)
    opened.consuming.usable.clear()
    if kind is Kind.EVENT:
        opened.publishing.usable.clear()
    message, publishing = opened.publish(kind)
    await _some_turns()
    opened.publishing.usable.clear()
    opened.transport._reply_to = "replies"
    opened.consuming.usable.set()
    await _some_turns()
    assert not publishing.done()
    assert not message.sent
    opened.publishing.usable.set()
    await until(lambda: message.sent)
    publishing.cancel()


@pytest.mark.parametrize("fault", ["", "publishing", "consuming", "refused"])
async def test_it_is_connected_only_without_any_fault(opened: Opened, fault: str) -> None:
    if fault == "refused":
        opened.transport._refused = fault
    elif fault:
        getattr(opened, fault).reason = fault
    assert opened.transport.status == MeshStatus(fault == "", fault)


@pytest.mark.parametrize(
    ("answer", "error", "sent"),
    [
        ([commands.Basic.Ack(1)], None, True),
        ([commands.Basic.Nack(1)], Nacked, True),
        ("return", Unroutable, False),
        ("close", ConnectionLost, True),
        ("no reply queue", ConnectionLost, False),
        ("no channel", ConnectionLost, False),
        ("many unconfirmed", ConnectionLost, False),
    ],
)
async def test_a_message_counts_as_sent_unless_the_broker_cannot_have_kept_it(
    opened: Opened,
    settings: Settings,
    answer: Any,
    error: type[Exception] | None,
    sent: bool,
) -> None:
    unready: Any = opened.transport
    opened.consuming.usable.clear()
    if answer == "no reply queue":
        opened.consuming.usable.set()
        unready._reply_to = ""
    elif answer == "no channel":
        unready._publisher = None
    elif answer == "many unconfirmed":
        unready._settings = settings.model_copy(update={"max_pending_requests": 2})
        opened.publisher._unconfirmed = {0: ("a", asyncio.Future()), -1: ("b", asyncio.Future())}
    message, publishing = opened.publish(Kind.REQUEST)
    if answer not in ("no reply queue", "no channel", "many unconfirmed"):
        await until(lambda: len(opened.wire.frames) == 3)
        assert message.sent
    if answer == "close":
        opened.publisher.close()
    elif answer == "return":
        opened.publisher._on_return("c")
        answer = [commands.Basic.Ack(1)]
    for frame in answer if isinstance(answer, list) else ():
        opened.publisher._fast_path.filter(pamqp.frame.marshal(frame, 1))
    async with asyncio.timeout(10):
        (ended,) = await asyncio.gather(publishing, return_exceptions=True)
    assert type(ended) is (error or type(None))
    assert message.sent is sent
    assert bool(opened.wire.frames) is (sent or error is Unroutable)


async def test_replies_may_be_sent_when_as_many_calls_as_possible_wait(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default limit included: who calls this service must not wait for others."""
    waiting: dict[int, Any] = {-n: (str(n), asyncio.Future()) for n in range(10_000)}
    opened.publisher._unconfirmed = waiting
    message, publishing = opened.publish(Kind.RESPONSE)
    await until(lambda: message.sent)
    publishing.cancel()
    monkeypatch.setattr(transport, "MAX_UNCONFIRMED_REPLIES", 1)
    _, refused = opened.publish(Kind.RESPONSE)
    with pytest.raises(ConnectionLost):
        await refused


async def test_questions_about_queues_are_answered_when_the_connection_is_lost_meanwhile(
    opened: Opened,
) -> None:
    async def handle(_: object) -> None: ...

    receiver: Any = object()
    await opened.transport.start(receiver, [], [])
    opened.consuming.usable.clear()
    counting = asyncio.create_task(opened.transport.unconsumed_events(["first"]))
    checking = asyncio.create_task(
        opened.transport.check_queues([EventHandler("first", "a", handle)], [Service("shop")])
    )
    await _some_turns()
    assert not counting.done(), "there may be a connection soon"
    assert not checking.done()
    opened.consuming.usable.set()
    with pytest.raises(ConnectionLost, match="the connection was closed"):
        await counting
    reasons = await checking
    assert len(reasons) == 3
    assert set(reasons.values()) == {"the connection was closed"}
