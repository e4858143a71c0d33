"""One WebSocket: what comes in, pings, and a close that ends."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Final, Protocol

from bff.connections.close_codes import CloseCode
from bff.connections.frames import header
from bff.server.codes import ABNORMAL, INTERNAL_ERROR, INVALID_DATA, NORMAL, SERVICE_RESTART
from bff.server.flush_scheduler import FlushScheduler
from bff.server.parser import (
    BINARY,
    CLOSE,
    IGNORE_INPUT,
    PING,
    PONG,
    TEXT,
    BadFrameError,
    IgnoreInput,
    Parser,
    close_code,
)
from bff.server.write_buffer import WriteBuffer

_CLOSE_SECONDS: Final = 2.0
"""How long a peer has to answer a close. `transport.close()` alone would wait for ever for one
that has stopped reading."""
_OPENING_SECONDS: Final = 0.01
"""How long the response that accepts a handshake waits for a first message to share a write."""
_MOST_EARLY: Final = 65_536
"""Bytes that may come before the handshake is answered; a client is to wait (RFC 6455, 4.1)."""
_MOST_REASON: Final = 123
"""Bytes of a close frame's reason (RFC 6455, 5.5)."""
_PING: Final = header(PING, 0)


class Endpoint(Protocol):
    """Who has a socket that is not detached."""

    def take(self, data: str | bytes) -> None:
        """A message has come."""

    def taken(self) -> list[str | bytes]:
        """Messages that have come and that the application has not received."""

    def disconnect(self, code: int) -> None:
        """The socket is gone."""

    def stop(self) -> None:
        """The server shuts down: who still waits for an answer gets one."""


class WebSocketProtocol(WriteBuffer):
    """A socket, which is a `Detachable`.

    An ASGI endpoint answers the handshake. It may go on as any endpoint does; or the socket is
    detached: frames go from the parser straight to the conversation, and the ASGI task with all
    that hung on it is let go.
    """

    __slots__ = (
        "_abort_timer",
        "_awaits_pong",
        "_closed",
        "_code",
        "_context",
        "_early",
        "_is_reading",
        "_opening",
        "_parser",
        "_receive",
        "_timer",
        "_unanswered",
        "endpoint",
    )

    def __init__(self, scheduler: FlushScheduler, transport: asyncio.Transport) -> None:
        super().__init__(scheduler, transport)
        self.endpoint: Endpoint | None = None
        """Who is given the messages, until the socket is detached."""
        self._parser: Parser | IgnoreInput | None = None
        """There is one once the handshake is accepted."""
        self._early = b""
        self._is_reading = True
        self._opening: asyncio.TimerHandle | None = None
        """For the response that accepts the handshake, while it waits for the first message."""
        self._receive: Callable[[str | bytes], None] | None = None
        self._closed: Callable[[int], None] | None = None
        self._context: contextvars.Context | None = None
        self._unanswered: bytes | None = None
        """The ping that is to be answered once the peer reads."""
        self._code = ABNORMAL
        """What the socket is closed with: by the peer, or else by us."""
        self._awaits_pong = False
        self._timer: asyncio.TimerHandle | None = None
        """For the next ping, or for its answer."""
        self._abort_timer: asyncio.TimerHandle | None = None
        scheduler.connections.add(self)  # type: ignore[arg-type]

    # The handshake

    def open(self, response: bytes) -> None:
        """Accept the handshake, and begin to speak WebSocket.

        The response waits for a moment, so that it shares a write with the first message.
        """
        self._parser = Parser(self._scheduler.max_size)
        if self.outgoing is None:
            self.outgoing = response
            self._opening = self._scheduler.loop.call_later(_OPENING_SECONDS, self._send_opening)
        else:
            self.add(response)
        self._ping_later()
        if early := self._early:
            self._early = b""
            self.data_received(early)

    def _send_opening(self) -> None:
        self._opening = None
        self.flush()

    def add(self, wire: bytes) -> None:
        opening = self._opening
        if opening is not None:
            self._opening = None
            opening.cancel()
            self._scheduler.schedule(self)
        super().add(wire)

    def refuse(self, response: bytes) -> None:
        """Send the response that does not, and end."""
        if not self.is_closing:
            self.stop_sending()
            self.transport.write(response)
            self._end()

    # Detachable

    def close(self, code: int, reason: str = "") -> None:
        if self._parser is None or self.is_closing:
            return
        if code == CloseCode.SLOW_CONSUMER:
            self.drop()
        cut = reason.encode()[:_MOST_REASON].decode(errors="ignore")
        self._send_close(code.to_bytes(2) + cut.encode())
        self._code = code
        self.resume_reading()
        self._abort_later()

    def detach(self, receive: Callable[[str | bytes], None], closed: Callable[[int], None]) -> bool:
        if self.is_closing or self.endpoint is None:
            return False
        self._receive, self._closed = receive, closed
        self._context = contextvars.copy_context()
        endpoint, self.endpoint = self.endpoint, None
        for data in endpoint.taken():
            if not self.is_closing:
                self._deliver(data)
        self.resume_reading()
        return True

    # An endpoint that keeps its socket

    def send(self, data: str | bytes) -> None:
        """Send a message, however much waits already: the endpoint waits for `drained`."""
        payload = data.encode() if isinstance(data, str) else data
        opcode = TEXT if isinstance(data, str) else BINARY
        wire = header(opcode, len(payload)) + payload
        if self.outgoing is None:
            self.transport.write(wire)
        else:
            self.add(wire)

    def release(self) -> None:
        """The endpoint has returned: unless the socket is detached, it ends."""
        if self.endpoint is not None:
            self.close(NORMAL)
            self.endpoint = None

    def resume_reading(self) -> None:
        """Take messages again."""
        if not self._is_reading:
            self._is_reading = True
            self.transport.resume_reading()

    # What the transport says

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            self._early += data
            if len(self._early) > _MOST_EARLY:
                self.transport.abort()
            return
        try:
            for opcode, payload in self._parser.feed(data):
                self._handle(opcode, payload)
        except BadFrameError as error:
            self._fail(error)

    def resume_writing(self) -> None:
        super().resume_writing()
        ping, self._unanswered = self._unanswered, None
        if ping is not None and not self.is_closing:
            self._pong(ping)

    def eof_received(self) -> None:
        """The peer sends no more: the transport closes itself, for which the peer must read."""
        self._abort_later()

    def shutdown(self) -> None:
        """The server stops."""
        if self._parser is None and self.endpoint is not None:
            self.endpoint.stop()
        self.close(SERVICE_RESTART)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_pings()
        self.stop_sending()
        self.resume_writing()
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        self._scheduler.connections.discard(self)
        closed, context = self._closed, self._context
        self._receive = self._closed = self._context = None
        if closed is not None and context is not None:
            context.run(closed, self._code)
        elif self.endpoint is not None:
            self.endpoint.disconnect(self._code)

    # Frames that come in

    def _handle(self, opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            if self._parser is not IGNORE_INPUT:
                self._code = close_code(payload)
                self._parser = IGNORE_INPUT
                if not self.is_closing:
                    self._send_close(payload)
                self._end()
        elif self.is_closing:
            return
        elif opcode == TEXT:
            try:
                text = payload.decode()
            except UnicodeDecodeError:
                raise BadFrameError(INVALID_DATA, "the text is no UTF-8") from None
            self._deliver(text)
        elif opcode == BINARY:
            self._deliver(payload)
        elif opcode == PING:
            if self._is_paused:  # answers would pile up; the latest will do (section 5.5.3)
                self._unanswered = payload
            else:
                self._pong(payload)
        elif self._awaits_pong:
            self._awaits_pong = False
            self._ping_later()

    def _pong(self, payload: bytes) -> None:
        self.add(header(PONG, len(payload)) + payload)

    def _deliver(self, data: str | bytes) -> None:
        if self.endpoint is not None:
            self.endpoint.take(data)
            if self._is_reading:
                self._is_reading = False
                self.transport.pause_reading()
            return
        assert self._context is not None  # noqa: S101
        assert self._receive is not None  # noqa: S101
        try:
            self._context.run(self._receive, data)
        except Exception:
            self._scheduler.logger.exception("a frame could not be handled")
            self.close(INTERNAL_ERROR)

    # Pings

    def _stop_pings(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ping_later(self) -> None:
        self._stop_pings()
        if self._scheduler.ping_interval:
            loop, seconds = self._scheduler.loop, self._scheduler.ping_interval
            self._timer = loop.call_later(seconds, self._send_ping)

    def _send_ping(self) -> None:
        self._awaits_pong = True
        self.add(_PING)
        if self._scheduler.ping_timeout:
            loop, seconds = self._scheduler.loop, self._scheduler.ping_timeout
            self._timer = loop.call_later(seconds, self._no_pong)

    def _no_pong(self) -> None:
        if self._is_reading:
            self.close(CloseCode.NO_PONG, "no pong")
        else:  # it may have come, behind what the endpoint has not taken yet
            self._ping_later()

    # The end

    def _send_close(self, payload: bytes) -> None:
        self.add(header(CLOSE, len(payload)) + payload)
        self.flush()
        self.stop_sending()
        self._stop_pings()

    def _fail(self, error: BadFrameError) -> None:
        """Say what is wrong and hear no more. What the peer still sends is read all the same: else
        it would be told that the connection was reset, and nothing else."""
        self._parser = IGNORE_INPUT
        if self.is_closing:
            self._end()
            return
        self.close(error.code, error.reason)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def _end(self) -> None:
        """Close the connection when what was written is with the peer, or after a while."""
        self.transport.close()
        self._abort_later()

    def _abort_later(self) -> None:
        if self._abort_timer is None:
            loop = self._scheduler.loop
            self._abort_timer = loop.call_later(_CLOSE_SECONDS, self.transport.abort)
