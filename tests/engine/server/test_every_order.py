"""Whatever the server, the client and the network do, in whatever order: the client gets the
handshake response, then whole frames in the order in which they were sent, then one close frame and
nothing else; and the connection ends, once."""

from __future__ import annotations

import logging
from typing import Any

from bff.connections.close_codes import CloseCode
from bff.connections.frames import Frame
from bff.server.flush_scheduler import FlushScheduler
from bff.server.parser import BINARY, CLOSE, PING, PONG, TEXT
from bff.server.protocol import WebSocketProtocol
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from uvicorn import Config
from uvicorn.server import ServerState

from tests.engine.server.doubles import Frames, ManualLoop, PeerTransport, frames_of
from tests.engine.server.test_protocol import masked

RESPONSE = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
LIMIT = 300
PING_INTERVAL, PING_TIMEOUT, CLOSE_SECONDS = 25.0, 10.0, 2.0


class Endpoint:
    """An ASGI endpoint to which these messages came before the socket was detached."""

    def __init__(self, *waiting: str) -> None:
        self._waiting = waiting

    def deliver(self, data: str | bytes) -> None:
        raise AssertionError("the socket is detached")

    def drain_received(self) -> list[str | bytes]:
        return list(self._waiting)

    def disconnect(self, code: int) -> None:
        raise AssertionError("the socket is detached")

    def shutdown(self) -> None:
        raise AssertionError("the handshake is answered")


class SocketMachine(RuleBasedStateMachine):
    """A detached socket between a server and a client; the names of the rules say who acts."""

    @initialize(can_write_eof=st.booleans(), is_stalled=st.booleans())
    def begin(self, can_write_eof: bool, is_stalled: bool) -> None:
        self.loop = ManualLoop()
        self.transport = PeerTransport(self.loop, can_write_eof=can_write_eof)
        self.transport.is_stalled = is_stalled
        self.state = ServerState()
        loop: Any = self.loop
        transport: Any = self.transport
        config = Config(lambda: None, ws_ping_interval=PING_INTERVAL, ws_ping_timeout=PING_TIMEOUT)
        scheduler = FlushScheduler(config, self.state, loop)
        scheduler.logger = logging.getLogger("tests.silent")
        scheduler.logger.disabled = True
        self.socket = WebSocketProtocol(scheduler, transport)
        self.socket.endpoint = Endpoint("early")
        self.expected = Frames()
        """What the client gets, if the connection lives."""
        self.received: list[str | bytes] = []
        self.sent_by_client: list[str | bytes] = ["early"]
        self.ended: list[tuple[int, bool]] = []
        self.end: tuple[int, bool] | None = None
        """The close code and whether the server closes, once one of them has."""
        self.closed_at: float | None = None
        self.is_ignoring = False
        self.next_ping = PING_INTERVAL
        self.ping_since: float | None = None
        self.deferred_ping: bytes | None = None
        self.number = 0
        self.socket.accept(RESPONSE)
        assert self.socket.detach(self.received.append, self.on_end)

    def on_end(self, code: int, by_server: bool) -> None:
        self.ended.append((code, by_server))

    def written(self) -> Frames:
        data = self.transport.written
        assert not data or data.startswith(RESPONSE)
        return frames_of(data.removeprefix(RESPONSE))

    def closes(
        self,
        code: int,
        payload: bytes | None = None,
        *,
        by_server: bool = True,
        at: float | None = None,
    ) -> None:
        """The first of both sides closes, now or `at` a later time."""
        if self.end is not None:
            return
        self.end = code, by_server
        if self.closed_at is None:
            self.closed_at = self.loop.now if at is None else at
        self.expected.append((CLOSE, code.to_bytes(2) if payload is None else payload))

    # The server

    @rule(size=st.integers(0, LIMIT + 20))
    def server_writes(self, size: int) -> None:
        self.number += 1
        frame = Frame(b"%d " % self.number + b"x" * size)
        before = self.socket.buffered
        accepted = self.socket.write(frame, LIMIT)
        if self.end is not None or self.transport.is_lost:
            assert accepted
            return
        assert accepted is (not before or before + len(frame.wire) <= LIMIT)
        if accepted:
            self.expected.append((TEXT, frame.payload))
        else:
            self.expected = self.written()
            self.socket.close(CloseCode.SLOW_CONSUMER)
            self.closes(CloseCode.SLOW_CONSUMER)

    @rule(
        code=st.sampled_from(
            [CloseCode.DRAIN, CloseCode.NORMAL, CloseCode.BAD_FRAME, CloseCode.TOO_MANY_REQUESTS]
        ),
        reason=st.sampled_from(["", "why"]),
    )
    def server_closes(self, code: CloseCode, reason: str) -> None:
        self.socket.close(code, reason)
        if self.end is None and not self.transport.is_lost:
            self.is_ignoring = code in (CloseCode.BAD_FRAME, CloseCode.TOO_MANY_REQUESTS)
            self.closes(code, code.to_bytes(2) + reason.encode())

    def server_shuts_down(self) -> None:
        self.socket.shutdown()
        self.closes(CloseCode.SERVICE_RESTART)
        assert self.transport.is_closing()

    # The client

    def client_sends(self, opcode: int, payload: bytes) -> bool:
        """Whether the server reads it and heeds it."""
        if self.transport.is_closing():
            return False
        self.socket.data_received(masked(opcode, payload))
        return not self.is_ignoring

    @precondition(lambda self: not self.transport.is_lost)
    @rule(data=st.sampled_from(["", "text", b"", b"bytes"]))
    def client_sends_a_message(self, data: str | bytes) -> None:
        is_text = isinstance(data, str)
        payload = data.encode() if isinstance(data, str) else data
        if self.client_sends(TEXT if is_text else BINARY, payload) and self.end is None:
            self.sent_by_client.append(data)

    @precondition(lambda self: not self.transport.is_lost)
    @rule(payload=st.sampled_from([b"", b"a", b"b"]))
    def client_pings(self, payload: bytes) -> None:
        if self.client_sends(PING, payload) and self.end is None:
            if self.transport.is_paused:
                self.deferred_ping = payload
            else:
                self.expected.append((PONG, payload))

    @precondition(lambda self: not self.transport.is_lost)
    @rule()
    def client_sends_a_pong(self) -> None:
        if self.client_sends(PONG, b"") and self.ping_since is not None:
            self.ping_since, self.next_ping = None, self.loop.now + PING_INTERVAL

    def client_closes(self, payload: bytes) -> None:
        if self.client_sends(CLOSE, payload):
            code = int.from_bytes(payload[:2]) or CloseCode.NO_STATUS
            self.closes(code, payload, by_server=False)
            assert self.transport.is_closing()

    def client_breaks_the_rules(
        self, opcode: int, payload: bytes, code: CloseCode, reason: bytes
    ) -> None:
        was_closing = self.end is not None
        if self.client_sends(opcode, payload) and not (was_closing and opcode == TEXT):
            self.is_ignoring = True
            self.closes(code, code.to_bytes(2) + reason)
            assert self.transport.has_written_eof or self.transport.is_closing()

    def client_sends_no_more(self) -> None:
        if not self.transport.is_closing():
            self.socket.eof_received()
            self.closed_at = self.loop.now if self.closed_at is None else self.closed_at

    def connection_breaks(self) -> None:
        self.transport.abort()
        self.loop.settle()
        self.end = self.end or (CloseCode.ABNORMAL, False)

    @precondition(lambda self: not self.transport.is_lost)
    @rule(end=st.sampled_from(range(9)))
    def something_ends_it(self, end: int) -> None:
        match end:
            case 0:
                self.connection_breaks()
            case 1:
                self.server_shuts_down()
            case 2:
                self.client_sends_no_more()
            case 3 | 4 | 5:
                self.client_closes((b"", b"\x03\xe8", b"\x0f\xa0bye")[end - 3])
            case 6:
                code, reason = CloseCode.INVALID_DATA, b"the text is not UTF-8"
                self.client_breaks_the_rules(TEXT, b"\xff", code, reason)
            case 7:
                code, reason = CloseCode.PROTOCOL_ERROR, b"unknown opcode"
                self.client_breaks_the_rules(3, b"", code, reason)
            case _:
                code, reason = CloseCode.PROTOCOL_ERROR, b"invalid close code"
                self.client_breaks_the_rules(CLOSE, b"\x03\xed", code, reason)

    @precondition(lambda self: not self.transport.is_lost)
    @rule()
    def client_stops_reading(self) -> None:
        self.transport.is_stalled = True

    @precondition(lambda self: not self.transport.is_lost)
    @rule()
    def client_reads(self) -> None:
        was_lost = self.transport.is_lost
        self.transport.read_all()
        if self.deferred_ping is not None and self.end is None and not was_lost:
            self.expected.append((PONG, self.deferred_ping))
        self.deferred_ping = None

    # The network

    @rule()
    def turn_passes(self) -> None:
        self.loop.settle()
        if not self.transport.is_lost and self.expected:
            assert self.written() == self.expected

    @rule(seconds=st.sampled_from([0.005, 0.02, 1.0, 2.0, 9.0, 25.0]))
    def time_passes(self, seconds: float) -> None:
        self.expect_what_time_brings(self.loop.now + seconds)
        self.loop.advance(seconds)
        self.turn_passes()
        if self.closed_at is not None and self.closed_at + CLOSE_SECONDS <= self.loop.now:
            assert self.transport.is_lost
            self.end = self.end or (CloseCode.ABNORMAL, False)

    def expect_what_time_brings(self, until: float) -> None:
        if self.closed_at is not None:
            until = min(until, self.closed_at + CLOSE_SECONDS - 1e-6)
        while self.end is None:
            if self.ping_since is None:
                if self.next_ping > until:
                    return
                self.ping_since = self.next_ping
                self.expected.append((PING, b""))
            else:
                overdue = self.ping_since + PING_TIMEOUT
                if overdue > until:
                    return
                self.closes(CloseCode.NO_PONG, b"\x0f\xa4no pong", at=overdue)

    # Always

    @invariant()
    def client_gets_what_was_sent_in_order(self) -> None:
        written = self.written()
        assert written == self.expected[: len(written)]

    @invariant()
    def server_gets_what_was_sent_in_order(self) -> None:
        assert self.received == self.sent_by_client

    @invariant()
    def connection_ends_once(self) -> None:
        assert self.ended == ([self.end] if self.transport.is_lost else [])
        assert bool(self.state.connections) is not self.transport.is_lost

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            self.time_passes(PING_INTERVAL + PING_TIMEOUT)
            self.time_passes(CLOSE_SECONDS)
            self.connection_ends_once()
            assert self.transport.is_lost
            assert not self.loop.timers


def test_the_client_gets_whole_frames_in_order_and_one_close_frame() -> None:
    run_state_machine_as_test(
        SocketMachine,
        settings=settings(
            derandomize=True,
            deadline=None,
            max_examples=120,
            stateful_step_count=30,
            report_multiple_bugs=False,
        ),
    )
