"""Joins an event stream to its conversation, in which the client only listens."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.auth.caller import Caller
from app.connections.close_codes import CloseCode
from app.connections.event_stream import EventStreamTransport, last_event
from app.connections.positions import Position
from app.connections.transport import ABORT
from app.errors import Code, Problem
from app.realtime.sessions import Sessions

_CUT_SECONDS: Final = 1.0
_HEADERS: Final = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
_REFUSALS: Final = {
    CloseCode.CONNECTION_LIMIT: Code.RATE_LIMITED,
    CloseCode.TOKEN_EXPIRED: Code.UNAUTHENTICATED,
    CloseCode.REVOKED: Code.FORBIDDEN,
}
"""What a browser should not simply repeat has a status. The rest begins and ends a stream, because
`EventSource` comes back by itself only after that."""


class EventStream(Response):
    """Lets the caller in while it is sent, and lives as long as the connection.

    Raises:
        Problem: while it is sent, before anything was: the caller is not let in.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        caller: Caller,
        sessions: Sessions,
        since: Mapping[str, Position],
        topics: Collection[str],
        *,
        ping_interval: float,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(_HEADERS)
        self._caller = caller
        self._sessions = sessions
        self._since = since
        self._topics = topics
        self._ping_interval = ping_interval

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = EventStreamTransport(
            send, self.raw_headers, refusals=_REFUSALS, ping_interval=self._ping_interval
        )
        request = Request(scope)
        conversation = self._sessions.begin(
            transport,
            self._caller,
            address=request.client.host if request.client else "",
            device=request.headers.get("user-agent", ""),
        )
        writing = asyncio.create_task(transport.run())
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await self._sessions.admit(conversation, self._since, self._topics)
            await asyncio.wait({writing, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._sessions.close(conversation, 1006)
            writing.cancel()
            if transport.started and not transport.ended:
                await _cut(scope, gone)
            gone.cancel()
        code, reason = transport.close_with
        if not transport.started and code in _REFUSALS:
            raise Problem(_REFUSALS[CloseCode(code)], reason)


def ended(code: CloseCode, reason: str) -> Response:
    """A stream that only says why it ends."""
    return Response(last_event(code, reason), headers=_HEADERS, media_type=EventStream.media_type)


async def _cut(scope: Scope, gone: asyncio.Task[None]) -> None:
    """Let nothing wait for a peer that does not read; only our own server can."""
    abort = scope.get("extensions", {}).get(ABORT)
    if abort is not None:
        abort()
        await asyncio.wait({gone}, timeout=_CUT_SECONDS)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
