"""The lane writes and reads AMQP as others do, and leaves to aiormq what is not its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pamqp.frame
import pytest
from bff.mesh import wire
from bff.mesh.rabbitmq.fast_path import Contents, FastPath, Publisher
from bff.mesh.transport import ConnectionLost, Unroutable
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


class Taken:
    """The messages that a lane has handed over."""

    def __init__(self, lane: FastPath, channel: int) -> None:
        self.messages: list[tuple[str, bytes]] = []
        lane.take(channel, Contents(wire.DELIVER, lambda *message: self.messages.append(message)))


@pytest.fixture
async def lane() -> FastPath:
    return FastPath()


@pytest.mark.parametrize("size", [0, 5, 10_000])
def test_a_broker_without_a_limit_gets_a_body_in_one_frame(size: int) -> None:
    sent = wire.publish(
        1, 0, exchange="", routing_key="", mandatory=False, properties=bytes(2), body=b"x" * size
    )
    bodies = [frame.value for frame in read(sent) if isinstance(frame, ContentBody)]
    assert bodies == ([b"x" * size] if size else [])


@pytest.mark.parametrize("size", [0, 5, 4088, 4089, 10_000])
def test_what_is_published_is_what_others_read(size: int) -> None:
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
    assert header.body_size == size
    given = header.properties
    assert (given.content_type, given.headers) == ("application/json", HEADERS)
    assert (given.correlation_id, given.reply_to) == ("c1", "amq.gen-1")
    assert (given.expiration, given.message_id) == ("500", "m1")
    parts = [body.value for body in bodies if isinstance(body, ContentBody)]
    assert b"".join(parts) == b"x" * size
    assert all(0 < len(part) <= 4088 for part in parts)


def test_a_name_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="256"):
        wire.publish(
            1, 4096, exchange="", routing_key="x" * 256, mandatory=False, properties=b"", body=b""
        )


@pytest.mark.parametrize("step", [1, 7, 10_000])
async def test_messages_come_whole_however_the_stream_is_cut(lane: FastPath, step: int) -> None:
    taken = Taken(lane, 2)
    other = delivery(3, "c3", b"an event")
    stream = delivery(2, "c1", b"ab", b"cd") + other + delivery(2, None) + other
    others = b"".join(
        lane.divide(stream[at : at + step]) for at in range(0, len(stream), step)
    ).replace(wire.HEARTBEAT, b"")
    assert taken.messages == [("c1", b"abcd"), ("", b"")]
    assert others == other + other


async def test_a_head_that_nobody_can_read_goes_on_without_its_properties(lane: FastPath) -> None:
    """aiormq would give up the connection, and be given the same message again."""
    deliver = marshal(3, commands.Basic.Deliver("tag", 1, False, "", "queue"))
    microseconds = (1 << 6).to_bytes(2) + (1_700_000_000_000_000).to_bytes(8)
    payload = (60).to_bytes(2) + bytes(2) + (2).to_bytes(8) + microseconds
    head = wire.FRAME.pack(wire.HEADER, 3, len(payload)) + payload + wire.END
    body = marshal(3, ContentBody(b"{}"))
    passed_on = lane.divide(deliver + head + body)
    assert passed_on == deliver + marshal(3, ContentHeader(0, 2)) + body


async def test_what_ends_a_channel_goes_on_to_aiormq(lane: FastPath) -> None:
    Taken(lane, 2)
    Publisher(lane, 4, 4096)
    for channel in (2, 4):
        close = marshal(channel, commands.Channel.Close(404, "gone", 0, 0))
        assert lane.divide(close) == close
    cancel = marshal(2, commands.Basic.Cancel("tag"))
    assert lane.divide(cancel) == cancel


async def test_a_server_that_speaks_no_amqp_is_left_to_aiormq(lane: FastPath) -> None:
    assert lane.divide(b"AMQP\x00\x00\x08\x00") == b"AMQP\x00\x00\x08\x00"


async def test_while_replies_come_aiormq_sees_that_the_broker_lives(lane: FastPath) -> None:
    Taken(lane, 2)
    assert wire.HEARTBEAT in lane.divide(delivery(2, "c1", b"x"))


async def test_a_reply_that_breaks_its_reader_breaks_no_other(lane: FastPath) -> None:
    seen: list[str] = []

    def on_message(correlation_id: str, body: bytes) -> None:
        seen.append(correlation_id)
        if correlation_id == "c1":
            raise RuntimeError("a bug")

    lane.take(2, Contents(wire.DELIVER, on_message))
    lane.divide(delivery(2, "c1", b"x") + delivery(2, "c2", b"y"))
    assert seen == ["c1", "c2"]


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


async def test_each_message_is_confirmed_returned_or_refused(lane: FastPath) -> None:
    publisher = Publisher(lane, 1, 4096)
    one, two, three, four = (publish(publisher, name) for name in ("1", "2", "3", "4"))
    returned = marshal(
        1,
        commands.Basic.Return(312, "NO_ROUTE", "", "a"),
        ContentHeader(0, 2, commands.Basic.Properties(correlation_id="2")),
        ContentBody(b"{}"),
    )
    lane.divide(returned + marshal(1, commands.Basic.Ack(2, True), commands.Basic.Nack(4)))
    await one
    for lost in (two, four):
        with pytest.raises(Unroutable):
            await lost
    assert publisher.unconfirmed == 1
    lane.divide(marshal(1, commands.Basic.Ack(3)))
    await three
    assert publisher.unconfirmed == 0


async def test_a_confirm_for_nobody_harms_nobody(lane: FastPath) -> None:
    publisher = Publisher(lane, 1, 4096)
    given_up, waits = publish(publisher, "1"), publish(publisher, "2")
    given_up.cancel()
    lane.divide(marshal(1, commands.Basic.Ack(1), commands.Basic.Ack(9), commands.Basic.Ack(2)))
    await waits


async def test_what_was_not_confirmed_is_lost_with_the_channel(lane: FastPath) -> None:
    publisher = Publisher(lane, 1, 4096)
    waits = publish(publisher, "1")
    publisher.end()
    with pytest.raises(ConnectionLost):
        await waits


async def test_what_is_sent_in_one_turn_leaves_in_one_write(
    lane: FastPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[bytes] = []

    class Transport:
        write = staticmethod(writes.append)

        def is_closing(self) -> bool:
            return False

    monkeypatch.setattr(lane, "_transport", Transport())
    publisher = Publisher(lane, 1, 4096)
    for name in ("1", "2", "3"):
        publish(publisher, name)
    assert writes == []
    await asyncio.sleep(0)
    assert len(writes) == 1
    assert sum(isinstance(frame, commands.Basic.Publish) for frame in read(writes[0])) == 3
