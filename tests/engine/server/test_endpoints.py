"""A socket until it is detached: the handshake, and messages for an ASGI endpoint that takes one at
a time."""

from __future__ import annotations

import contextvars
import errno
from dataclasses import dataclass, field
from typing import Any

import pytest
from bff.connections.close_codes import CloseCode
from bff.server.flush_scheduler import FlushScheduler
from bff.server.parser import BINARY, CLOSE, PING, PONG, TEXT
from bff.server.protocol import WebSocketProtocol
from uvicorn import Config
from uvicorn.server import ServerState

from tests.engine.server.doubles import Frames, ManualLoop, PeerTransport, frames_of
from tests.engine.server.test_protocol import masked

RESPONSE = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
MAX_EARLY_BYTES = 65_536


class Endpoint:
    """Receives when the test says so."""

    def __init__(self) -> None:
        self.delivered: list[str | bytes] = []
        self.code: int | None = None
        self.is_shut_down = False

    def deliver(self, data: str | bytes) -> None:
        self.delivered.append(data)

    def drain_received(self) -> list[str | bytes]:
        delivered, self.delivered = self.delivered, []
        return delivered

    def disconnect(self, code: int) -> None:
        assert self.code is None
        self.code = code

    def shutdown(self) -> None:
        self.is_shut_down = True


@dataclass
class Side:
    """The server's side of one connection."""

    loop: ManualLoop = field(default_factory=ManualLoop)
    endpoint: Endpoint = field(default_factory=Endpoint)
    before: bytes = b""
    """An answer to an earlier request, which the client has not read."""

    def __post_init__(self) -> None:
        self.transport = PeerTransport(self.loop)
        if self.before:
            self.transport.is_stalled = True
            self.transport.write(self.before)
        loop: Any = self.loop
        transport: Any = self.transport
        config = Config(lambda: None, ws_ping_interval=25, ws_ping_timeout=10)
        self.scheduler = FlushScheduler(config, ServerState(), loop)
        self.socket = WebSocketProtocol(self.scheduler, transport)
        self.socket.endpoint = self.endpoint

    def client_sends(self, *texts: str) -> None:
        for text in texts:
            self.socket.data_received(masked(TEXT, text.encode()))

    def client_gets(self) -> Frames:
        """All frames up to now."""
        self.loop.settle()
        assert self.transport.written.startswith(RESPONSE)
        return frames_of(self.transport.written.removeprefix(RESPONSE))


@pytest.fixture
def unanswered() -> Side:
    return Side()


def accepted() -> Side:
    made = Side()
    made.socket.accept(RESPONSE)
    made.loop.advance(0.01)
    assert made.transport.written == RESPONSE
    return made


@pytest.fixture
def side() -> Side:
    """The handshake is accepted."""
    return accepted()


def test_what_arrives_before_the_answer_is_handled_after_it(unanswered: Side) -> None:
    data = masked(TEXT, b"first") + masked(PING, b"second")
    for at in range(len(data)):
        unanswered.socket.data_received(data[at : at + 1])
    assert unanswered.endpoint.delivered == []
    unanswered.socket.close(CloseCode.DRAIN)
    assert unanswered.transport.written == b"", "there is nothing to close"
    unanswered.socket.accept(RESPONSE)
    assert unanswered.endpoint.delivered == ["first"]
    assert unanswered.client_gets() == [(PONG, b"second")]
    unanswered.client_sends("third")
    assert unanswered.endpoint.delivered == ["first", "third"]


@pytest.mark.parametrize("more", [0, 1])
def test_a_client_that_floods_before_the_answer_is_disconnected(
    unanswered: Side, more: int
) -> None:
    unanswered.socket.data_received(bytes(MAX_EARLY_BYTES))
    unanswered.socket.data_received(bytes(more))
    unanswered.loop.settle()
    assert unanswered.transport.is_lost is bool(more)
    assert (unanswered.endpoint.code == CloseCode.ABNORMAL) is bool(more)


def test_the_answer_waits_behind_an_earlier_one_that_is_not_read() -> None:
    side = Side(before=b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    side.socket.accept(RESPONSE)
    assert side.socket.buffered == len(side.before + RESPONSE)
    side.loop.settle()
    assert side.transport.written == side.before + RESPONSE
    assert side.socket.buffered == len(side.transport.written)


def test_a_rejection_is_the_only_answer_and_closes(unanswered: Side) -> None:
    unanswered.transport.is_stalled = True
    unanswered.socket.reject(b"HTTP/1.1 403 Forbidden\r\n\r\n")
    unanswered.socket.reject(b"HTTP/1.1 500 Internal Server Error\r\n\r\n")
    unanswered.socket.close(CloseCode.DRAIN)
    unanswered.socket.release()
    unanswered.socket.shutdown()
    assert unanswered.transport.written == b"HTTP/1.1 403 Forbidden\r\n\r\n"
    assert unanswered.transport.is_closing()
    unanswered.loop.advance(1.9)
    assert not unanswered.transport.is_lost
    unanswered.loop.advance(0.1)
    assert unanswered.transport.is_lost, "the client does not read"


@pytest.mark.parametrize("accepted", [False, True])
def test_a_server_that_stops_lets_the_endpoint_answer_or_closes(
    unanswered: Side, accepted: bool
) -> None:
    if accepted:
        unanswered.socket.accept(RESPONSE)
    unanswered.socket.shutdown()
    unanswered.loop.settle()
    assert unanswered.endpoint.is_shut_down is not accepted
    if accepted:
        assert unanswered.client_gets() == [(CLOSE, b"\x03\xf4")]
    assert unanswered.transport.is_lost


def test_nothing_is_read_while_the_endpoint_has_a_message_to_receive(side: Side) -> None:
    side.client_sends("one")
    assert not side.transport.is_reading
    side.client_sends("two")  # it was read together with the first one
    assert side.endpoint.drain_received() == ["one", "two"]
    side.socket.resume_reading()
    assert side.transport.is_reading
    side.socket.data_received(masked(BINARY, b"three"))
    assert side.endpoint.delivered == [b"three"]
    assert not side.transport.is_reading
    side.socket.close(CloseCode.DRAIN)
    assert side.transport.is_reading, "the answer to the close"
    side.socket.data_received(masked(CLOSE, b"\x0f\xa1"))
    side.loop.settle()
    assert side.transport.is_lost
    assert side.endpoint.code == CloseCode.DRAIN
    assert not side.loop.timers


def test_each_ping_follows_the_pong_and_no_other_pong_postpones_it(side: Side) -> None:
    def pong_after(seconds: float) -> None:
        side.loop.advance(seconds)
        side.socket.data_received(masked(PONG, b""))

    pong_after(20)
    side.loop.advance(5)
    assert side.client_gets() == [(PING, b"")]
    pong_after(9)
    pong_after(20)
    side.loop.advance(4)
    assert side.client_gets() == [(PING, b"")]
    side.loop.advance(1 + 9)
    assert side.client_gets() == [(PING, b"")] * 2
    side.loop.advance(1)
    assert side.client_gets()[2:] == [(CLOSE, b"\x0f\xa4no pong")]


def test_without_a_timeout_no_pong_is_needed_and_without_an_interval_no_ping_sent(
    unanswered: Side,
) -> None:
    unanswered.scheduler.ping_timeout = 0
    silent = Side()
    silent.scheduler.ping_interval = 0
    for side in (unanswered, silent):
        side.socket.accept(RESPONSE)
        side.loop.advance(3600)
    assert unanswered.client_gets() == [(PING, b"")]
    assert silent.client_gets() == []


def test_a_pong_that_waits_unread_is_not_missed(side: Side) -> None:
    """It waits behind a message that the endpoint has not received."""
    side.client_sends("slow")
    side.loop.advance(25 + 10)
    assert side.client_gets() == [(PING, b"")]
    side.socket.resume_reading()
    side.loop.advance(25 + 10)
    assert side.client_gets() == [(PING, b""), (PING, b""), (CLOSE, b"\x0f\xa4no pong")]


def test_the_endpoint_sends_text_and_bytes_in_order_whether_or_not_the_client_reads(
    side: Side,
) -> None:
    side.socket.send("é")
    side.transport.is_stalled = True
    side.socket.send(b"1")
    side.socket.send("2")
    side.socket.data_received(masked(PING, b""))
    side.transport.read_all()
    side.socket.send(b"3")
    assert side.client_gets() == [
        (TEXT, "é".encode()),
        (BINARY, b"1"),
        (TEXT, b"2"),
        (PONG, b""),
        (BINARY, b"3"),
    ]


def test_an_endpoint_that_returns_closes_the_socket_and_a_detached_one_stays_open(
    side: Side,
) -> None:
    other = accepted()
    assert other.socket.detach(lambda _: None, lambda *_: None)
    assert not other.socket.detach(lambda _: None, lambda *_: None)
    for one in (side, other):
        one.socket.release()
    assert side.client_gets() == [(CLOSE, b"\x03\xe8")]
    assert other.client_gets() == []
    assert not side.socket.detach(lambda _: None, lambda *_: None)
    side.loop.advance(2)
    assert side.endpoint.code is None, "it has returned"


def test_a_detached_socket_reads_again_and_gets_what_the_endpoint_had_not_received(
    side: Side,
) -> None:
    received: list[str | bytes] = []

    def receive(data: str | bytes) -> None:
        received.append(data)
        if data == "last":
            side.socket.close(CloseCode.DRAIN)

    side.client_sends("one", "two")
    assert side.socket.detach(receive, lambda *_: None)
    assert side.transport.is_reading
    side.client_sends("three")
    assert side.transport.is_reading
    assert received == ["one", "two", "three"]
    side.client_sends("last", "too late")
    assert received == ["one", "two", "three", "last"]


def test_handlers_run_in_the_context_in_which_the_socket_was_detached(side: Side) -> None:
    caller: contextvars.ContextVar[str] = contextvars.ContextVar("caller", default="nobody")
    seen: list[str] = []

    def detach() -> None:
        caller.set("alice")
        side.socket.detach(
            lambda _: seen.append(caller.get()), lambda *_: seen.append(caller.get())
        )

    contextvars.copy_context().run(detach)
    side.client_sends("x")
    side.transport.abort()
    side.loop.settle()
    assert seen == ["alice", "alice"]


@pytest.mark.parametrize("code", [CloseCode.BAD_FRAME, CloseCode.TOO_MANY_REQUESTS])
def test_the_rest_of_a_flood_is_read_and_not_parsed(side: Side, code: CloseCode) -> None:
    """Unread, it would make the kernel reset the connection before the client sees the code."""
    side.loop.advance(24)
    side.socket.close(code)
    assert side.transport.has_written_eof
    for data in (masked(TEXT, b"x"), masked(CLOSE, b""), b"\xff" * 100):
        side.socket.data_received(data)
    assert not side.transport.is_closing()
    assert side.transport.is_reading
    side.loop.advance(1.9)
    assert side.client_gets() == [(CLOSE, code.to_bytes(2))], "nor is it pinged"
    assert not side.transport.is_lost
    side.loop.advance(0.1)
    assert side.transport.is_lost
    answered = accepted()
    answered.socket.close(CloseCode.DRAIN)
    answered.socket.data_received(b"\xff\xff")
    assert answered.transport.is_closing(), "rubbish in place of the answer to a close"


def test_a_flood_of_a_client_that_has_just_gone_is_no_error_of_the_server(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio's transports, unlike uvloop's, raise when the socket is not connected any more."""

    def write_eof() -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr(side.transport, "write_eof", write_eof)
    side.socket.data_received(b"\xff" * 100)
    assert side.client_gets()[0][0] == CLOSE
    side.loop.advance(2)
    assert side.endpoint.code == CloseCode.PROTOCOL_ERROR
