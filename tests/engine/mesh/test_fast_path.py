"""The fast path reads and writes valid AMQP, and leaves all other frames to aiormq."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import NamedTuple

import pamqp.frame
import pytest
from bff.mesh import wire
from bff.mesh.rabbitmq.fast_path import FastPath, MessageAssembler, Publisher
from bff.mesh.transport import ConnectionLost, Nacked, Unroutable
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import commands
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

HEADERS = {"trace_id": "a1", "encrypted": "", "nuropb_type": "request"}


def marshal(channel: int, *frames: object) -> bytes:
    return b"".join(pamqp.frame.marshal(frame, channel) for frame in frames)  # type: ignore[arg-type]


def delivery(channel: int, correlation_id: str | None, *bodies: bytes) -> bytes:
    properties = commands.Basic.Properties(
        content_type="application/json",
        content_encoding="utf-8",
        headers={"a": "b", "n": 1},
        delivery_mode=2,
        priority=3,
        correlation_id=correlation_id,
        message_id="m",
    )
    return marshal(
        channel,
        commands.Basic.Deliver("tag", 1, False, "", "queue"),
        ContentHeader(0, sum(map(len, bodies)), properties),
        *(ContentBody(body) for body in bodies),
    )


def read(data: bytes) -> Iterator[object]:
    while data:
        size, channel, frame = pamqp.frame.unmarshal(data)
        assert channel == 1
        data = data[size:]
        yield frame


class Recorder:
    """Records the messages of a channel."""

    def __init__(self, fast_path: FastPath, channel: int) -> None:
        self.messages: list[tuple[str, bytes]] = []
        assembler = MessageAssembler(wire.DELIVER, lambda *message: self.messages.append(message))
        fast_path.add_handler(channel, assembler)


@pytest.fixture
async def fast_path() -> FastPath:
    return FastPath()


@pytest.mark.parametrize("size", [0, 5, 10_000])
def test_without_a_frame_limit_a_body_is_one_frame(size: int) -> None:
    sent = wire.publish(
        1, 0, exchange="", routing_key="", mandatory=False, properties=bytes(2), body=b"x" * size
    )
    bodies = [frame.value for frame in read(sent) if isinstance(frame, ContentBody)]
    assert bodies == ([b"x" * size] if size else [])


@pytest.mark.parametrize("size", [0, 5, 4088, 4089, 10_000])
def test_published_frames_are_read_by_pamqp(size: int) -> None:
    properties = wire.properties(
        content_type="application/json",
        headers=HEADERS,
        correlation_id="c1",
        reply_to="amq.gen-1",
        expiration="500",
        message_id="m1",
    )
    method, header, *bodies = read(
        wire.publish(
            1,
            4096,
            exchange="ex",
            routing_key="ключ",
            mandatory=True,
            properties=properties,
            body=b"x" * size,
        )
    )
    assert isinstance(method, commands.Basic.Publish)
    assert (method.exchange, method.routing_key, method.mandatory) == ("ex", "ключ", True)
    assert not method.immediate
    assert isinstance(header, ContentHeader)
    assert (header.weight, header.body_size) == (0, size)
    given = header.properties
    assert (given.content_type, given.headers) == ("application/json", HEADERS)
    assert (given.correlation_id, given.reply_to) == ("c1", "amq.gen-1")
    assert (given.expiration, given.message_id) == ("500", "m1")
    parts = [body.value for body in bodies if isinstance(body, ContentBody)]
    assert b"".join(parts) == b"x" * size
    assert all(0 < len(part) <= 4088 for part in parts)


def test_a_routing_key_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="256"):
        wire.publish(
            1, 4096, exchange="", routing_key="x" * 256, mandatory=False, properties=b"", body=b""
        )


@pytest.mark.parametrize("step", [1, 7, 10_000])
async def test_messages_are_assembled_from_chunks_of_any_size(
    fast_path: FastPath, step: int
) -> None:
    recorder = Recorder(fast_path, 2)
    other = delivery(3, "c3", b"an event")
    stream = delivery(2, "c1", b"ab", b"cd") + other + delivery(2, None) + other
    others = b"".join(
        fast_path.filter(stream[at : at + step]) for at in range(0, len(stream), step)
    ).replace(wire.HEARTBEAT, b"")
    assert recorder.messages == [("c1", b"abcd"), ("", b"")]
    assert others == other + other


async def test_properties_that_pamqp_cannot_decode_are_removed(fast_path: FastPath) -> None:
    """aiormq would close the connection, and get the same message again after reconnecting."""
    deliver = marshal(3, commands.Basic.Deliver("tag", 1, False, "", "queue"))
    microseconds = (1 << 6).to_bytes(2) + (1_700_000_000_000_000).to_bytes(8)
    payload = (60).to_bytes(2) + bytes(2) + (2).to_bytes(8) + microseconds
    head = wire.FRAME.pack(wire.HEADER, 3, len(payload)) + payload + wire.END
    body = marshal(3, ContentBody(b"{}"))
    passed_on = fast_path.filter(deliver + head + body)
    assert passed_on == deliver + marshal(3, ContentHeader(0, 2)) + body


@pytest.mark.parametrize(
    ("exchange", "routing_key", "expected"),
    [
        (b"events", b"orders.caf\xe9", ("events", "orders.caf?")),
        (b"\xff", b"orders.\xc3\xa9", ("?", "orders.\u00e9")),
        (b"", b"\xe9" * 255, ("", "?" * 255)),
        (b"events", b"\xc3\xa9" * 127, ("events", "\u00e9" * 127)),
    ],
)
@pytest.mark.parametrize("step", [1, 10_000])
async def test_a_routing_key_that_is_not_utf_8_is_made_readable(
    fast_path: FastPath, exchange: bytes, routing_key: bytes, expected: tuple[str, str], step: int
) -> None:
    """aiormq would close the connection, and get the same message again after reconnecting."""
    before = wire.DELIVER + b"\x03tag" + (2**63 - 1).to_bytes(8) + b"\x01"
    names = (bytes((len(name),)) + name for name in (exchange, routing_key))
    payload = b"".join((before, *names))
    deliver = wire.FRAME.pack(wire.METHOD, 1, len(payload)) + payload + wire.END
    content = marshal(1, ContentHeader(0, 4), ContentBody(wire.DELIVER))
    stream = deliver + content
    passed_on = b"".join(
        fast_path.filter(stream[at : at + step]) for at in range(0, len(stream), step)
    )
    method, *_, body = read(passed_on)
    assert isinstance(method, commands.Basic.Deliver)
    assert isinstance(body, ContentBody)
    assert (method.exchange, method.routing_key) == expected
    assert (method.consumer_tag, method.delivery_tag) == ("tag", 2**63 - 1)
    assert method.redelivered
    assert body.value == wire.DELIVER


async def test_frames_that_close_a_channel_are_passed_to_aiormq(fast_path: FastPath) -> None:
    Recorder(fast_path, 2)
    Publisher(fast_path, 4, 4096)
    for channel in (2, 4):
        close = marshal(channel, commands.Channel.Close(404, "gone", 0, 0))
        assert fast_path.filter(close) == close
    cancel = marshal(2, commands.Basic.Cancel("tag"))
    assert fast_path.filter(cancel) == cancel


async def test_messages_of_other_methods_are_passed_to_aiormq(fast_path: FastPath) -> None:
    recorder = Recorder(fast_path, 2)
    got = commands.Basic.GetOk(1, False, "", "queue", 0)
    message = marshal(2, got, ContentHeader(0, 1), ContentBody(b"x"))
    assert fast_path.filter(message) == message
    assert recorder.messages == []


async def test_a_protocol_header_is_passed_to_aiormq(fast_path: FastPath) -> None:
    assert fast_path.filter(b"AMQP\x00\x00\x08\x00") == b"AMQP\x00\x00\x08\x00"
    assert fast_path.filter(b"and more") == b"and more"


async def test_aiormq_gets_heartbeats_while_replies_bypass_it(fast_path: FastPath) -> None:
    Recorder(fast_path, 2)
    first, *others = [fast_path.filter(delivery(2, f"c{n}", b"x")) for n in range(20)]
    assert first == wire.HEARTBEAT
    assert others.count(b"") >= 10, "about one per second is enough"


async def test_an_error_in_a_handler_does_not_affect_the_next_message(fast_path: FastPath) -> None:
    seen: list[str] = []

    def on_message(correlation_id: str, body: bytes) -> None:
        seen.append(correlation_id)
        if correlation_id == "c1":
            raise RuntimeError("a bug")

    fast_path.add_handler(2, MessageAssembler(wire.DELIVER, on_message))
    fast_path.filter(delivery(2, "c1", b"x") + delivery(2, "c2", b"y"))
    assert seen == ["c1", "c2"]


async def test_a_body_after_an_unreadable_header_has_no_correlation_id(fast_path: FastPath) -> None:
    """It must not pass for the reply to the call before."""
    recorder = Recorder(fast_path, 2)
    fast_path.filter(delivery(2, "c1", b"first"))
    unreadable = wire.FRAME.pack(wire.HEADER, 2, 1) + b"?\xce"
    fast_path.filter(
        marshal(2, commands.Basic.Deliver("tag", 2, False, "", "queue"))
        + unreadable
        + marshal(2, ContentBody(b"second"))
    )
    assert recorder.messages == [("c1", b"first"), ("", b"second")]


# Publishing


def publish(publisher: Publisher, correlation_id: str) -> asyncio.Future[None]:
    return publisher.publish(
        correlation_id,
        b"{}",
        exchange="",
        routing_key="a",
        mandatory=True,
        properties=wire.properties(
            content_type="",
            headers={},
            correlation_id=correlation_id,
            reply_to="",
            expiration=None,
            message_id="",
        ),
    )


async def test_each_message_is_confirmed_returned_or_refused(fast_path: FastPath) -> None:
    publisher = Publisher(fast_path, 1, 4096)
    one, two, three, four = (publish(publisher, name) for name in ("1", "2", "3", "4"))
    returned = marshal(
        1,
        commands.Basic.Return(312, "NO_ROUTE", "", "a"),
        ContentHeader(0, 2, commands.Basic.Properties(correlation_id="2")),
        ContentBody(b"{}"),
    )
    fast_path.filter(returned + marshal(1, commands.Basic.Ack(2, True), commands.Basic.Nack(4)))
    await one
    with pytest.raises(Unroutable):
        await two
    with pytest.raises(Nacked):
        await four
    assert publisher.unconfirmed == 1
    fast_path.filter(marshal(1, commands.Basic.Ack(3)))
    await three
    assert publisher.unconfirmed == 0


async def test_unexpected_confirms_are_ignored(
    fast_path: FastPath, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = Publisher(fast_path, 1, 4096)
    cancelled, waits = publish(publisher, "1"), publish(publisher, "2")
    cancelled.cancel()
    fast_path.filter(
        marshal(1, commands.Basic.Ack(1), commands.Basic.Ack(9), commands.Basic.Ack(2))
    )
    await waits
    fast_path.filter(marshal(1, commands.Basic.Ack(9, True), commands.Basic.Nack(10, True)))
    assert caplog.records == []


class Answers(NamedTuple):
    """What the broker sends for some messages: returns for some of them, then one confirm."""

    upto: int
    multiple: bool
    refused: bool
    returned: set[int]


ANSWERS = st.builds(
    Answers, st.integers(1, 8), st.booleans(), st.booleans(), st.sets(st.integers(1, 8))
)


@given(answers=st.lists(ANSWERS), step=st.sampled_from([1, 50, 10_000]))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_any_order_of_returns_and_confirms_is_understood(answers: list[Answers], step: int) -> None:
    """The body of a returned message looks like a confirm: it is none."""

    async def check() -> None:
        fast_path = FastPath()
        publisher = Publisher(fast_path, 1, 4096)
        confirms = {tag: publish(publisher, str(tag)) for tag in range(1, 9)}
        expected: dict[int, str] = {}
        stream = b""
        for one in answers:
            tags = {tag for tag in confirms if tag <= one.upto} if one.multiple else {one.upto}
            tags -= expected.keys()
            for tag in sorted(tags & one.returned):
                properties = commands.Basic.Properties(correlation_id=str(tag))
                stream += marshal(
                    1,
                    commands.Basic.Return(312, "NO_ROUTE", "", "a"),
                    ContentHeader(0, 13, properties),
                    ContentBody(wire.ACK + bytes(7) + b"\x08\x01"),
                )
            confirm = commands.Basic.Nack if one.refused else commands.Basic.Ack
            stream += marshal(1, confirm(one.upto, one.multiple))
            for tag in tags:
                outcome = "Nacked" if one.refused else "NoneType"
                expected[tag] = "Unroutable" if tag in one.returned else outcome
        for at in range(0, len(stream), step):
            assert fast_path.filter(stream[at : at + step]) in (b"", wire.HEARTBEAT)
        told = {
            tag: type(confirm.exception()).__name__
            for tag, confirm in confirms.items()
            if confirm.done()
        }
        assert told == expected
        assert publisher.unconfirmed == len(confirms) - len(expected)
        assert publisher._returned == set(), "nothing is kept of messages that are confirmed"

    asyncio.run(check())


async def test_unconfirmed_messages_fail_when_the_channel_closes(fast_path: FastPath) -> None:
    publisher = Publisher(fast_path, 1, 4096)
    waits = publish(publisher, "1")
    publisher.close()
    with pytest.raises(ConnectionLost):
        await waits


@pytest.mark.parametrize("connected", [True, False])
async def test_nothing_is_written_to_a_connection_that_is_closed_or_not_open_yet(
    fast_path: FastPath,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    connected: bool,
) -> None:
    class Closing:
        def is_closing(self) -> bool:
            return True

    if connected:
        monkeypatch.setattr(fast_path, "_transport", Closing())
    publish(Publisher(fast_path, 1, 4096), "1")
    await asyncio.sleep(0)
    assert caplog.records == []


async def test_messages_of_one_loop_iteration_are_sent_in_one_write(
    fast_path: FastPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[bytes] = []

    class Transport:
        write = staticmethod(writes.append)

        def is_closing(self) -> bool:
            return False

    monkeypatch.setattr(fast_path, "_transport", Transport())
    publisher = Publisher(fast_path, 1, 4096)
    for name in ("1", "2", "3"):
        publish(publisher, name)
    assert writes == []
    await asyncio.sleep(0)
    assert len(writes) == 1
    assert sum(isinstance(frame, commands.Basic.Publish) for frame in read(writes[0])) == 3
