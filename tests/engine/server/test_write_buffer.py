"""Which frames are written, when, and in how many writes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bff.connections.close_codes import CloseCode
from bff.connections.frames import Frame
from bff.server.flush_scheduler import FlushScheduler
from bff.server.protocol import WebSocketProtocol
from bff.server.run import configuration
from bff.settings import Settings
from bff.testing import until
from uvicorn.server import ServerState

LIMIT = 1000
CLOSE = 0x88


class FakeTransport:
    """Records writes; `held` is the size of its buffer."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.held = 0
        self.closed = False

    def set_protocol(self, protocol: object) -> None: ...

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        assert (high, low) == (1, 0)

    def get_write_buffer_size(self) -> int:
        return self.held

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None: ...


@pytest.fixture
async def scheduler(settings: Settings) -> FlushScheduler:
    config = configuration(settings, app=lambda: None)
    return FlushScheduler(config, ServerState(), asyncio.get_running_loop())


@pytest.fixture
def transport() -> FakeTransport:
    return FakeTransport()


def opened(scheduler: FlushScheduler, transport: FakeTransport) -> WebSocketProtocol:
    """A socket whose handshake was accepted."""
    fake: Any = transport
    socket = WebSocketProtocol(scheduler, fake)
    socket.accept(b"101")
    socket.flush()
    transport.writes.clear()
    return socket


@pytest.fixture
def socket(scheduler: FlushScheduler, transport: FakeTransport) -> WebSocketProtocol:
    return opened(scheduler, transport)


def frame(text: str) -> Frame:
    return Frame(text.encode())


async def test_a_single_frame_is_written_without_a_copy(
    socket: WebSocketProtocol, transport: FakeTransport
) -> None:
    one = frame("one")
    assert socket.write(one, LIMIT)
    assert not transport.writes
    await asyncio.sleep(0)
    (written,) = transport.writes
    assert written is one.wire


async def test_frames_of_one_turn_are_written_at_once_in_order(
    socket: WebSocketProtocol, transport: FakeTransport
) -> None:
    frames = [frame(str(number)) for number in range(20)]
    for one in frames:
        assert socket.write(one, LIMIT)
    assert socket.buffered == sum(len(one.wire) for one in frames)
    await asyncio.sleep(0)
    assert transport.writes == [b"".join(one.wire for one in frames)]
    socket.write(frames[0], LIMIT)
    await asyncio.sleep(0)
    assert transport.writes[1:] == [frames[0].wire]


async def test_frames_that_arrive_before_the_flush_share_its_write(
    scheduler: FlushScheduler,
) -> None:
    transports = [FakeTransport() for _ in range(250)]
    all_sockets = [opened(scheduler, transport) for transport in transports]
    for text in ("first", "second"):
        for socket in all_sockets:
            socket.write(frame(text), LIMIT)
        await asyncio.sleep(0)
    while scheduler.pending:
        await asyncio.sleep(0)
    both = frame("first").wire + frame("second").wire
    assert all(b"".join(transport.writes) == both for transport in transports)
    assert len(transports[0].writes) == 2
    assert len(transports[-1].writes) == 1


async def test_a_frame_beyond_the_limit_is_rejected_when_others_wait(
    socket: WebSocketProtocol, transport: FakeTransport
) -> None:
    transport.held = LIMIT - 10
    socket.pause_writing()
    assert socket.write(frame("12345678"), LIMIT)
    assert socket.buffered == LIMIT
    assert not socket.write(frame("1"), LIMIT)
    transport.held = 0
    assert socket.write(frame("1"), LIMIT)


async def test_a_single_frame_is_accepted_whatever_its_size(
    socket: WebSocketProtocol, transport: FakeTransport
) -> None:
    for _ in range(2):
        assert socket.write(frame("x" * 2 * LIMIT), LIMIT)
        assert not socket.write(frame("y"), LIMIT)
        await asyncio.sleep(0)
        socket.pause_writing()
        socket.resume_writing()


async def test_waiting_frames_are_sent_before_a_close(
    socket: WebSocketProtocol, transport: FakeTransport
) -> None:
    socket.write(frame("last"), LIMIT)
    socket.close(CloseCode.DRAIN, "drain")
    written = b"".join(transport.writes)
    assert written.startswith(frame("last").wire)
    assert written[len(frame("last").wire)] == CLOSE


async def test_frames_waiting_for_a_slow_consumer_are_dropped(
    socket: WebSocketProtocol, transport: FakeTransport
) -> None:
    socket.pause_writing()
    transport.held = 500
    socket.write(frame("never"), LIMIT)
    socket.close(CloseCode.SLOW_CONSUMER)
    (close,) = transport.writes
    assert close[0] == CLOSE
    await asyncio.sleep(0)
    assert transport.writes == [close]


async def test_nothing_is_sent_after_a_close(
    socket: WebSocketProtocol, transport: FakeTransport
) -> None:
    socket.close(CloseCode.DRAIN)
    written = len(transport.writes)
    assert socket.write(frame("late"), LIMIT)
    socket.close(CloseCode.REVOKED)
    await asyncio.sleep(0)
    assert len(transport.writes) == written


async def test_drained_writes_and_returns_when_the_transport_resumes_or_the_connection_is_lost(
    scheduler: FlushScheduler, transport: FakeTransport
) -> None:
    socket = opened(scheduler, transport)
    async with asyncio.timeout(15):
        for end in (socket.resume_writing, lambda: socket.connection_lost(None)):
            socket.write(frame("now"), LIMIT)
            await socket.drained()
            assert transport.writes.pop() == frame("now").wire
            socket.pause_writing()
            waiting = asyncio.create_task(socket.drained())
            await asyncio.sleep(0)
            assert not waiting.done()
            end()
            await waiting


async def test_data_buffered_before_the_upgrade_counts(
    scheduler: FlushScheduler, transport: FakeTransport
) -> None:
    """The transport called `pause_writing` on the HTTP protocol, and calls it only once."""
    transport.held = LIMIT
    socket = opened(scheduler, transport)
    assert not socket.write(frame("1"), LIMIT)


async def test_only_the_latest_ping_of_a_client_that_does_not_read_is_answered(
    socket: WebSocketProtocol, transport: FakeTransport
) -> None:
    def ping(payload: bytes) -> None:
        socket.data_received(b"\x89\x81\0\0\0\0" + payload)

    ping(b"a")
    await asyncio.sleep(0)
    assert transport.writes == [b"\x8a\x01a"]
    socket.pause_writing()
    for _ in range(250):
        ping(b"b")
    ping(b"c")
    await asyncio.sleep(0)
    assert len(transport.writes) == 1
    assert socket.buffered == 0
    socket.resume_writing()
    await asyncio.sleep(0)
    assert transport.writes[1:] == [b"\x8a\x01c"]


async def test_the_handshake_response_and_the_first_message_share_a_write(
    scheduler: FlushScheduler, transport: FakeTransport
) -> None:
    fake: Any = transport
    socket = WebSocketProtocol(scheduler, fake)
    socket.accept(b"101")
    await asyncio.sleep(0)
    assert socket.write(frame("hello"), LIMIT)
    await asyncio.sleep(0)
    assert transport.writes == [b"101" + frame("hello").wire]


async def test_the_handshake_response_is_sent_even_without_a_message(
    scheduler: FlushScheduler, transport: FakeTransport
) -> None:
    fake: Any = transport
    WebSocketProtocol(scheduler, fake).accept(b"101")
    assert transport.writes == []
    await until(lambda: transport.writes == [b"101"])
