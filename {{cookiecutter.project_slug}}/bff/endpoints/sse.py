"""`GET /events`: what a socket brings, as server-sent events, for proxies that break sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request, Response, Security
from starlette.types import Receive, Scope, Send

from bff.auth.caller import Caller
from bff.connections.close_codes import CloseCode
from bff.connections.event_stream import CLOSED, EventStreamTransport, last_event
from bff.connections.positions import TOPIC, Position, parse_cursor
from bff.connections.transport import ABORT
from bff.endpoints.dependencies import Bearer, BffDep
from bff.errors import Code, Problem
from bff.problems import responses
from bff.realtime.handler_manager import HandlerManager

router = APIRouter(tags=["events"])

_EXAMPLE: Final = """\
retry: 2310

id: user/9d0c4f1e66/41,all/9d0c4f1e67/7
data: {"type":"event","payload":{"topic":"hello","event":{"session_id":"9f854975de87.YdlYBETb"}}}

id: user/9d0c4f1e66/42,all/9d0c4f1e67/7
data: {"type":"event","payload":{"topic":"news","event":1,"id":"user/9d0c4f1e66/42"}}

"""
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
        handlers: HandlerManager,
        since: Mapping[str, Position],
        topics: Collection[str],
        *,
        ping_interval: float,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(_HEADERS)
        self._caller = caller
        self._handlers = handlers
        self._since = since
        self._topics = topics
        self._ping_interval = ping_interval

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = EventStreamTransport(
            send, self.raw_headers, refusals=_REFUSALS, ping_interval=self._ping_interval
        )
        request = Request(scope)
        handler = self._handlers.open(
            transport,
            self._caller,
            address=request.client.host if request.client else "",
            device=request.headers.get("user-agent", ""),
        )
        writing = asyncio.create_task(transport.run())
        gone = asyncio.create_task(_disconnected(receive))
        try:
            await self._handlers.admit(handler, self._since, self._topics)
            await asyncio.wait({writing, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._handlers.close(handler, 1006)
            writing.cancel()
            if transport.started and not transport.ended:
                await _cut(scope, gone)
            gone.cancel()
        code, reason = transport.close_with
        if not transport.started and code in _REFUSALS:
            raise Problem(_REFUSALS[CloseCode(code)], reason)


def _ended(code: CloseCode, reason: str) -> Response:
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


_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Each event's data is a frame of `bff.v1`, the first one the hello",
        "content": {EventStream.media_type: {"example": _EXAMPLE}},
    },
    204: {"description": "The stream was ended for good: `EventSource` does not come back"},
    **responses(401, 403, 404, 422, 429, 503),
}


@router.get(
    "/events",
    summary="Live events, as server-sent events",
    status_code=200,
    response_class=EventStream,
    responses=_RESPONSES,
    dependencies=[Security(Bearer())],
)
async def events(
    request: Request,
    bff: BffDep,
    topics: Annotated[
        str, Query(max_length=3000, description="Topics to have besides, separated by commas")
    ] = "",
    since: Annotated[
        str, Query(description="An event's `id`, for clients that cannot give `Last-Event-ID`")
    ] = "",
    last_event_id: Annotated[
        str,
        Header(
            alias="Last-Event-ID",
            description="The `id` of the last event: what followed comes first",
        ),
    ] = "",
) -> Response:
    """The same events as at `/ws` (`docs/protocol.md`), for listening only.

    A draining instance refuses with 503, which the proxy answers by asking another instance. What
    would pass by itself begins a stream and ends it with the code 4006.
    """
    if CLOSED in (last_event_id, since):
        return Response(status_code=204)
    if bff.draining.begun:
        raise Problem(Code.SERVICE_UNAVAILABLE, "This instance is going away")
    authorising = _topics(topics, at_most=bff.settings.max_topics_per_connection)
    positions = _positions(last_event_id.encode("latin-1"), since)
    try:
        caller = await bff.authenticator.authenticate_stream(request)
        await bff.dispatcher.check_topics(caller, authorising)
    except Problem as problem:
        if problem.status < Code.SERVICE_UNAVAILABLE.status:
            raise
        return _ended(CloseCode.SERVER_ERROR, problem.description)
    return EventStream(
        caller,
        bff.handlers,
        positions,
        authorising,
        ping_interval=bff.settings.ping_interval_seconds,
    )


def _topics(text: str, at_most: int) -> list[str]:
    topics = list(dict.fromkeys(text.split(","))) if text else []
    if len(topics) > at_most:
        raise Problem(Code.FORBIDDEN, f"No more than {at_most} topics for one connection")
    for topic in topics:
        if not TOPIC.fullmatch(topic):
            raise Problem(Code.INVALID_PARAMS, "topics: one of them cannot be a topic")
    return topics


def _positions(last_event_id: bytes, since: str) -> dict[str, Position]:
    """The header decides, being the newer one; browsers send it in UTF-8. Streams that the
    connection will not have may be among them."""
    try:
        return parse_cursor(last_event_id.decode() or since)
    except ValueError as error:
        raise Problem(Code.INVALID_PARAMS, f"Last-Event-ID or since: {error}") from None
