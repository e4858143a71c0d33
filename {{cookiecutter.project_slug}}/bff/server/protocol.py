"""The WebSocket protocol class: received frames, detaching from ASGI, and closing."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from bff.connections.close_codes import CloseCode
from bff.connections.frames import header
from bff.server.flush_scheduler import FlushScheduler
from bff.server.keepalive import KeepAlive
from bff.server.parser import (
    BINARY,
    CLOSE,
    IGNORE_INPUT,
    PING,
    TEXT,
    BadFrameError,
    IgnoreInput,
    Parser,
    close_code,
)

_CLOSE_SECONDS: Final = 2.0
"""How long a client has to answer a close frame. `transport.close()` alone would wait without limit
for a client that has stopped reading."""
_ACCEPT_DELAY_SECONDS: Final = 0.01
"""How long the response that accepts a handshake is delayed, so that one write carries it together
with the first message."""
_MAX_EARLY_BYTES: Final = 65_536
"""Bytes accepted before the handshake is answered; a client has to wait (RFC 6455, section 4.1)."""
_MAX_REASON_BYTES: Final = 123
"""Bytes of a close frame's reason (RFC 6455, section 5.5)."""
_RESPONSE: Final = b"HTTP/"
"""A handshake response begins with these bytes; a frame never does."""
_IGNORE_INPUT_AFTER: Final = frozenset((CloseCode.TOO_MANY_REQUESTS, CloseCode.BAD_FRAME))
"""After these close codes nothing is parsed any more, because the client may be sending a flood."""
_ABNORMAL: Final = CloseCode.ABNORMAL


class Endpoint(Protocol):
    """The ASGI side of a socket that is not detached."""

    def deliver(self, data: str | bytes) -> None:
        """A message has arrived."""

    def drain_received(self) -> list[str | bytes]:
        """Remove and return the messages that the application has not received yet."""

    def disconnect(self, code: int) -> None:
        """The connection is closed."""

    def shutdown(self) -> None:
        """The server shuts down: reject a handshake that is still unanswered."""


class WebSocketProtocol(KeepAlive):
    """One WebSocket; implements `Detachable`.

    An ASGI endpoint answers the handshake. After that either the endpoint receives and sends
    messages, as on any ASGI server, or the socket is detached: then each message goes from the
    parser to the connection handler, and the ASGI task ends and is freed.
    """

    __slots__ = (
        "_abort_timer",
        "_accept_timer",
        "_close_code",
        "_closed_by_server",
        "_context",
        "_early_input",
        "_is_reading",
        "_on_close",
        "_on_message",
        "_parser",
        "endpoint",
    )

    def __init__(self, scheduler: FlushScheduler, transport: asyncio.Transport) -> None:
        super().__init__(scheduler, transport)
        self.endpoint: Endpoint | None = None
        """Receives the messages until the socket is detached."""
        self._parser: Parser | IgnoreInput | None = None
        """None until the handshake is accepted."""
        self._early_input = b""
        """Received before the handshake is answered."""
        self._is_reading = True
        self._accept_timer: asyncio.TimerHandle | None = None
        """Flushes the handshake response, unless the first message does it earlier."""
        self._on_message: Callable[[str | bytes], None] | None = None
        self._on_close: Callable[[int, bool], None] | None = None
        self._context: contextvars.Context | None = None
        """The context in which a detached socket calls `_on_message` and `_on_close`."""
        self._close_code: int = _ABNORMAL
        """The client's close code if the client closes first, else the one that was sent, or
        `_ABNORMAL` if there was no close frame."""
        self._closed_by_server = False
        self._abort_timer: asyncio.TimerHandle | None = None
        scheduler.connections.add(self)  # type: ignore[arg-type]

    # Handshake

    def accept(self, response: bytes) -> None:
        """Accept the handshake with this response and start to exchange frames.

        The response waits for a moment, so that it shares a write with the first message.
        """
        self._parser = Parser(self._scheduler.max_size)
        if self.outgoing is None:  # else writing is paused
            self.outgoing = response
            loop = self._scheduler.loop
            self._accept_timer = loop.call_later(_ACCEPT_DELAY_SECONDS, self._flush_response)
        else:
            self.enqueue(response)
        self.start_pings()
        if early := self._early_input:
            self._early_input = b""
            self.data_received(early)

    def _flush_response(self) -> None:
        self._accept_timer = None
        self.flush()

    def enqueue(self, wire: bytes) -> None:
        timer = self._accept_timer
        if timer is not None:
            self._accept_timer = None
            timer.cancel()
            self._scheduler.schedule(self)
        super().enqueue(wire)

    def reject(self, response: bytes) -> None:
        """Reject the handshake with this response and close the connection. Only the first call has
        an effect."""
        if not self.is_closing:
            self.stop_sending()
            self.transport.write(response)
            self._close_transport()

    # `Detachable`

    def close(self, code: int, reason: str = "") -> None:
        """Send what is buffered and a close frame; to a slow consumer only the close frame. Only
        the first call after the handshake has an effect."""
        if self._parser is None or self.is_closing:
            return
        if code == CloseCode.SLOW_CONSUMER:
            self._discard_frames()
        text = reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")
        self._send_close(code.to_bytes(2) + text.encode())
        self._close_code, self._closed_by_server = code, True
        self.resume_reading()
        self._abort_later()
        if code in _IGNORE_INPUT_AFTER:
            self._ignore_input()

    def detach(
        self, receive: Callable[[str | bytes], None], closed: Callable[[int, bool], None]
    ) -> bool:
        """Call `receive` for each message from now on (`Detachable`)."""
        if self.is_closing or self.endpoint is None:
            return False
        self._on_message, self._on_close = receive, closed
        self._context = contextvars.copy_context()
        endpoint, self.endpoint = self.endpoint, None
        for data in endpoint.drain_received():
            if not self.is_closing:
                self._deliver(data)
        self.resume_reading()
        return True

    # For the ASGI endpoint

    def send(self, data: str | bytes) -> None:
        """Send a message without a limit: the endpoint awaits `drained` afterwards."""
        payload = data.encode() if isinstance(data, str) else data
        opcode = TEXT if isinstance(data, str) else BINARY
        wire = header(opcode, len(payload)) + payload
        if self.outgoing is None:
            self.transport.write(wire)
        else:
            self.enqueue(wire)

    def release(self) -> None:
        """The endpoint has returned: close the socket unless it is detached."""
        if self.endpoint is not None:
            self.close(CloseCode.NORMAL)
            self.endpoint = None

    def resume_reading(self) -> None:
        """Read from the transport again."""
        if not self._is_reading:
            self._is_reading = True
            self.transport.resume_reading()

    # Called by the transport and by uvicorn

    def data_received(self, data: bytes) -> None:
        if self._parser is None:
            self._early_input += data
            if len(self._early_input) > _MAX_EARLY_BYTES:
                self.transport.abort()
            return
        try:
            for opcode, payload in self._parser.feed(data):
                self._handle(opcode, payload)
                if self._parser is IGNORE_INPUT:
                    return
        except BadFrameError as error:
            self._fail(error)

    def eof_received(self) -> None:
        """The client sends no more. asyncio closes the transport, but a client that does not read
        would keep it open."""
        self._abort_later()

    def shutdown(self) -> None:
        """The server shuts down (uvicorn calls this)."""
        if self._parser is None and self.endpoint is not None:
            self.endpoint.shutdown()
        self.close(CloseCode.SERVICE_RESTART)
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_pings()
        self.stop_sending()
        self.resume_writing()
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        self._scheduler.connections.discard(self)
        on_close, context = self._on_close, self._context
        self._on_message = self._on_close = self._context = None
        if on_close is not None and context is not None:
            context.run(on_close, self._close_code, self._closed_by_server)
        elif self.endpoint is not None:
            self.endpoint.disconnect(self._close_code)

    # Received frames

    def _handle(self, opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            self._close_received(payload)
        elif self.is_closing:
            return
        elif opcode == TEXT:
            try:
                text = payload.decode()
            except UnicodeDecodeError:
                raise BadFrameError(CloseCode.INVALID_DATA, "the text is not UTF-8") from None
            self._deliver(text)
        elif opcode == BINARY:
            self._deliver(payload)
        elif opcode == PING:
            self.ping_received(payload)
        else:
            self.pong_received()

    def _close_received(self, payload: bytes) -> None:
        code = close_code(payload)
        if not self.is_closing:
            self._close_code = code
            self._send_close(payload)
        self._close_transport()

    def _deliver(self, data: str | bytes) -> None:
        if self.endpoint is not None:
            self.endpoint.deliver(data)
            if self._is_reading:
                self._is_reading = False
                self.transport.pause_reading()
            return
        assert self._context is not None  # noqa: S101
        assert self._on_message is not None  # noqa: S101
        try:
            self._context.run(self._on_message, data)
        except Exception:
            self._scheduler.logger.exception("WebSocket message handler failed, connection closed")
            self.close(CloseCode.INTERNAL_ERROR)

    def pong_overdue(self) -> None:
        if self._is_reading:
            self.close(CloseCode.NO_PONG, "no pong")
        else:  # the pong may wait unread, behind a message that the endpoint has not received
            self.start_pings()

    # Closing

    def _discard_frames(self) -> None:
        """Drop the waiting frames, but not a handshake response that waits before them."""
        outgoing = self.outgoing
        first = outgoing[0] if isinstance(outgoing, list) and outgoing else outgoing
        self.discard_outgoing()
        if isinstance(first, bytes) and first.startswith(_RESPONSE):
            self.enqueue(first)

    def _send_close(self, payload: bytes) -> None:
        self.enqueue(header(CLOSE, len(payload)) + payload)
        self.flush()
        self.stop_sending()
        self.stop_pings()

    def _fail(self, error: BadFrameError) -> None:
        """Close because of an invalid frame, and ignore all further input."""
        if self.is_closing:
            self._parser = IGNORE_INPUT
            self._close_transport()
            return
        self.close(error.code, error.reason)
        self._ignore_input()

    def _ignore_input(self) -> None:
        """Parse nothing more after a close frame was sent, and end the output.

        The input is still read: unread data would make the kernel reset the connection, and the
        client would never see the close code.
        """
        self._parser = IGNORE_INPUT
        if self.transport.can_write_eof():
            with suppress(OSError):  # asyncio's: the client has just reset the connection
                self.transport.write_eof()
        else:
            self.transport.close()

    def _close_transport(self) -> None:
        """Close after the buffer is sent; abort after `_CLOSE_SECONDS`."""
        self.transport.close()
        self._abort_later()

    def _abort_later(self) -> None:
        if self._abort_timer is None:
            loop = self._scheduler.loop
            self._abort_timer = loop.call_later(_CLOSE_SECONDS, self.transport.abort)
