"""A transport whose frames leave as server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Sequence
from typing import Final

from bff.connections.asgi_transport import AsgiTransport, Send
from bff.connections.close_codes import CloseCode
from bff.connections.frames import Frame
from bff.connections.messages import Close
from bff.connections.positions import Position, format_cursor

CLOSED: Final = "closed"
"""The `id` of an end after which nobody should come back. A browser that comes back nonetheless,
as `EventSource` does by itself, gives it as `Last-Event-ID`."""

_DO_NOT_COME_BACK: Final = 4500
_COME_BACK: Final = (1.0, 4.0)
"""Seconds between which a browser waits before it comes back: not all at once after a crash."""
_COME_BACK_LATER: Final = (5.0, 15.0)


class EventStreamTransport(AsgiTransport):
    """The response begins with the first frame, so that a refusal can have a status."""

    def __init__(
        self,
        send: Send,
        headers: Sequence[tuple[bytes, bytes]],
        *,
        refusals: Collection[int],
        ping_interval: float,
    ) -> None:
        """A connection that is closed with one of `refusals` before its first frame leaves the
        response to the caller. `ping_interval` is the longest silence, in seconds."""
        super().__init__(send)
        self.started = False
        self.ended = False
        self._headers = headers
        self._refusals = refusals
        self._ping_interval = ping_interval
        self._cursor: dict[str, Position] = {}

    async def _send_frame(self, frame: Frame) -> None:
        await self._write_body(self._event(frame))

    def _event(self, frame: Frame) -> bytes:
        """JSON has no line breaks: the text is one `data` line."""
        fields = b""
        if frame.retry_ms is not None:
            fields = b"retry: %d\n" % frame.retry_ms
        if frame.positions:
            self._cursor.update(frame.positions)
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
        if not self.started:
            self.started = True
            headers = list(self._headers)
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
            body = _retry(_COME_BACK) + b"\n" + body
        await self._send({"type": "http.response.body", "body": body, "more_body": more})
        self.ended = not more


def last_event(code: int, reason: str) -> bytes:
    """The event that says why a stream ends."""
    fields = b""
    if code >= _DO_NOT_COME_BACK:
        fields = b"id: %s\n" % CLOSED.encode()
    elif code == CloseCode.SERVER_ERROR:
        fields = _retry(_COME_BACK_LATER)
    return b"%sdata: %s\n\n" % (fields, Close(code, reason).encode())


def _retry(seconds: tuple[float, float]) -> bytes:
    return b"retry: %d\n" % (random.uniform(*seconds) * 1000)  # noqa: S311
