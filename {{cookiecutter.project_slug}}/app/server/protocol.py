"""Sockets that leave their ASGI task, and frames written as they are.

This leans on the inside of uvicorn's sans-I/O WebSocket protocol. `SUPPORTED` names the releases
whose inside is known; with any other, `run.py` falls back to uvicorn's own class.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame as ReceivedFrame
from websockets.http11 import Request
from websockets.protocol import State

from app.connections.close_codes import CloseCode
from app.connections.frames import Frame
from app.connections.transport import EXTENSION

SUPPORTED: Final = ("0.54.",)

_CLOSE_SECONDS: Final = 2.0
"""How long a peer has to answer a close. `transport.close()` alone would wait for ever for one
that has stopped reading."""
_FLUSH_BATCH: Final = 500
"""Sockets written to in one turn of the loop: about 5 ms."""


_BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
"""To a handshake that cannot be parsed, for instance with a header line over 8 KiB."""


_WEBSOCKETS: Final = logging.getLogger("websockets.server")
"""Not uvicorn's, which tells that a socket was opened itself."""


class _Nowhere:
    """Takes the place of the ASGI queue of a detached socket."""

    def put_nowait(self, event: object) -> None: ...


_NOWHERE: Final[Any] = _Nowhere()


class _Flusher:
    """Writes what has gathered for each socket in one go, once per turn of the loop.

    uvloop writes inside `transport.write`, so twenty frames one by one are twenty system calls.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._dirty: list[WebSocketProtocol] = []

    def add(self, protocol: WebSocketProtocol) -> None:
        if not self._dirty:
            self._loop.call_soon(self._flush)
        self._dirty.append(protocol)

    def _flush(self) -> None:
        batch, self._dirty = self._dirty[:_FLUSH_BATCH], self._dirty[_FLUSH_BATCH:]
        if self._dirty:
            self._loop.call_soon(self._flush)
        for protocol in batch:
            protocol.flush()


_flushers: WeakKeyDictionary[asyncio.AbstractEventLoop, _Flusher] = WeakKeyDictionary()


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's protocol, which also is a `Detachable`.

    The endpoint does the handshake. Then the socket is detached: frames go from the parser straight
    to the conversation, and the ASGI task with all that hung on it is let go.
    """

    __slots__ = (
        "_abort_timer",
        "_closed",
        "_context",
        "_flusher",
        "_outgoing",
        "_outgoing_bytes",
        "_receive",
    )
    """Beside the dictionary of uvicorn's class, which is large, and slow to look into."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn.logger = _WEBSOCKETS
        self._receive: Callable[[str | bytes], None] | None = None
        self._closed: Callable[[int], None] | None = None
        self._context: contextvars.Context | None = None
        self._outgoing: list[bytes] = []
        self._outgoing_bytes = 0
        """Of these frames, and of what the transport held before the first of them."""
        self._abort_timer: asyncio.TimerHandle | None = None
        flusher = _flushers.get(self.loop)
        if flusher is None:
            flusher = _flushers[self.loop] = _Flusher(self.loop)
        self._flusher = flusher

    # Detachable

    @property
    def buffered(self) -> int:
        return self._outgoing_bytes if self._outgoing else self.transport.get_write_buffer_size()

    def write(self, frame: Frame, limit: int) -> bool:
        outgoing, wire = self._outgoing, frame.wire
        if outgoing:
            size = self._outgoing_bytes + len(wire)
        else:
            size = self.transport.get_write_buffer_size() + len(wire)
        if size > limit:
            return False
        if not outgoing:
            self._flusher.add(self)
        outgoing.append(wire)
        self._outgoing_bytes = size
        return True

    def flush(self) -> None:
        """Hand over what has gathered."""
        outgoing = self._outgoing
        if not outgoing:
            return
        data = outgoing[0] if len(outgoing) == 1 else b"".join(outgoing)
        outgoing.clear()
        transport = self.transport
        if not self.close_sent and not transport.is_closing():
            transport.write(data)

    async def drained(self) -> None:
        self.flush()
        await self.writable.wait()

    def close(self, code: int, reason: str = "") -> None:
        if code == CloseCode.SLOW_CONSUMER:
            self._outgoing.clear()
        self.flush()
        if self.close_sent or self.transport.is_closing() or self.conn.state is not State.OPEN:
            return
        self.conn.send_close(code, reason)
        self.close_sent = True
        self.transport.write(b"".join(self.conn.data_to_send()))
        self._resume_reading()
        self._abort_later()

    def detach(self, receive: Callable[[str | bytes], None], closed: Callable[[int], None]) -> bool:
        if self.disconnected or self.close_sent or self.transport.is_closing():
            return False
        self._receive, self._closed = receive, closed
        self._context = contextvars.copy_context()
        queue, self.queue = self.queue, _NOWHERE
        while not queue.empty():
            event: Any = queue.get_nowait()
            if event["type"] == "websocket.receive":
                self._deliver(event["text"] if "text" in event else event["bytes"])
        self._resume_reading()
        return True

    def _deliver(self, data: str | bytes) -> None:
        assert self._context is not None  # noqa: S101
        assert self._receive is not None  # noqa: S101
        try:
            self._context.run(self._receive, data)
        except Exception:
            self.logger.exception("a frame could not be handled")
            self.close(1011)

    def _resume_reading(self) -> None:
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    def _abort_later(self) -> None:
        if self._abort_timer is None:
            self._abort_timer = self.loop.call_later(_CLOSE_SECONDS, self.transport.abort)

    # What uvicorn does otherwise

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.transport.write(_BAD_REQUEST)
            self.transport.close()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions[EXTENSION] = self

    def send_receive_event_to_app(self) -> None:
        if self._receive is None:
            super().send_receive_event_to_app()
            return
        data = self.frames[0] if len(self.frames) == 1 else b"".join(self.frames)
        self.frames = []
        if self.close_sent or self.transport.is_closing():
            return
        if self.curr_msg_data_type == "bytes":
            self._deliver(bytes(data))
            return
        try:
            text = bytes(data).decode()
        except UnicodeDecodeError:
            self.close(1007)
        else:
            self._deliver(text)

    def keepalive_timeout(self) -> None:
        self.pong_timer = None
        self.pending_ping_payload = None
        self.close(CloseCode.NO_PONG, "no pong")

    def handle_close(self, event: ReceivedFrame) -> None:
        super().handle_close(event)
        if self.close_sent:
            self.transport.close()
        self._abort_later()

    def handle_parser_exception(self) -> None:
        super().handle_parser_exception()
        self._abort_later()

    def shutdown(self) -> None:
        self.flush()
        super().shutdown()
        self._abort_later()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        super().connection_lost(exc)
        closed, context = self._closed, self._context
        self._receive = self._closed = self._context = None
        if closed is not None and context is not None:
            close = self.conn.close_rcvd or self.conn.close_sent
            context.run(closed, close.code if close else 1006)

    async def run_asgi(self) -> None:
        """As in uvicorn, except that a detached socket outlives the call."""
        try:
            await self.app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except BaseException:
            self.logger.exception("Exception in ASGI application\n")
            if self.handshake_complete:
                self.close(1011)
            else:
                self.send_500_response()
        else:
            if not self.handshake_complete:
                self.logger.error("ASGI callable returned without completing handshake.")
                self.send_500_response()
        if self._receive is not None:
            self._let_go()
        elif self.close_timer is None and self._abort_timer is None:
            self.transport.close()

    def _let_go(self) -> None:
        """Free what only the handshake needed: about 8 KB."""
        nothing: Any = None
        self.scope = self.request = self.response = nothing
