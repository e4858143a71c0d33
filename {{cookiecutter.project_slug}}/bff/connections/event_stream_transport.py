"""The transport of an event stream: sends frames as server-sent events.

Event streams are specified in WHATWG HTML, section 9.2. The endpoint is `bff.endpoints.sse`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Sequence
from typing import Final

from bff.connections.asgi_transport import AsgiTransport, Send
from bff.connections.close_codes import CloseCode, reconnects
from bff.connections.frames import Frame
from bff.connections.messages import Close
from bff.connections.positions import Position, format_cursor

CLOSED: Final = "closed"
"""The `id` of the last event when the client must not reconnect. `EventSource` reconnects all the
same, with this as `Last-Event-ID`, and is then answered with 204, which stops it."""

_RECONNECT_SECONDS: Final = (1.0, 4.0)
"""Least and greatest delay of a reconnect, in seconds. Random, so that browsers do not reconnect
all at once after a crash."""
_RECONNECT_LATER_SECONDS: Final = (5.0, 15.0)


class EventStreamTransport(AsgiTransport):
    """Starts the response with the first frame, so that a refusal can still have a status."""

    def __init__(
        self,
        send: Send,
        headers: Sequence[tuple[bytes, bytes]],
        *,
        refusals: Collection[int],
        ping_interval: float,
        ping_timeout: float,
    ) -> None:
        """`refusals`: with these close codes, before the first frame, nothing is sent; the caller
        sends the response. `ping_interval`: seconds without an event after which a comment is
        sent. If the server does not accept it, or an event, for `ping_interval` and `ping_timeout`
        together, the connection is closed."""
        super().__init__(send)
        self.started = False
        self.ended = False
        self._headers = headers
        self._refusals = refusals
        self._ping_interval = ping_interval
        self._max_write_seconds = ping_interval + ping_timeout
        self._writing_since: float | None = None
        self._write_check: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._cursor: dict[str, Position] = {}

    async def run(self) -> None:
        self._check_write()
        try:
            await super().run()
        finally:
            if self._write_check is not None:
                self._write_check.cancel()

    def _check_write(self) -> None:
        """A peer that reads nothing: its connection is full, and the server waits for it."""
        since, now = self._writing_since, self._loop.time()
        if since is not None and now - since >= self._max_write_seconds:
            self.close(CloseCode.NO_PONG, "")
            return
        next_at = self._max_write_seconds + (now if since is None else since)
        self._write_check = self._loop.call_at(next_at, self._check_write)

    async def _send_frame(self, frame: Frame) -> None:
        await self._write_body(self._event(frame))

    def _event(self, frame: Frame) -> bytes:
        """One `data` line is enough: encoded JSON has no line breaks."""
        fields = b""
        if frame.retry_ms is not None:
            fields = b"retry: %d\n" % frame.retry_ms
        if frame.cursor:
            self._cursor.update(frame.cursor)
            fields += b"id: %s\n" % format_cursor(self._cursor).encode()
        return b"%sdata: %s\n\n" % (fields, frame.payload)

    async def _send_close(self, code: int, reason: str) -> None:
        if self.started or code not in self._refusals:
            await self._write_body(last_event(code, reason), more=False)

    async def _idle(self, wake: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(self._ping_interval):
                await wake.wait()
        except TimeoutError:
            if self.started:
                await self._write_body(b":\n\n")

    async def _write_body(self, body: bytes, *, more: bool = True) -> None:
        self._writing_since = self._loop.time()
        if not self.started:
            self.started = True
            headers = list(self._headers)
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            body = _retry(_RECONNECT_SECONDS) + b"\n" + body
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
        self._writing_since = None
        self.ended = not more


def last_event(code: int, reason: str) -> bytes:
    """The `close` event that ends a stream, with its code and reason."""
    fields = b""
    if not reconnects(code):
        fields = b"id: %s\n" % CLOSED.encode()
    elif code in (CloseCode.SERVER_ERROR, CloseCode.TOO_MANY_REQUESTS):
        fields = _retry(_RECONNECT_LATER_SECONDS)
    return b"%sdata: %s\n\n" % (fields, Close(code, reason).encode())


def _retry(seconds: tuple[float, float]) -> bytes:
    return b"retry: %d\n" % (random.uniform(*seconds) * 1000)  # noqa: S311
