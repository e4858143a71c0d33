"""`GET /events`: the events of `/ws` as server-sent events, for proxies that break WebSockets."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request, Response, Security
from starlette.types import Receive, Scope, Send

from bff.auth.caller import Caller
from bff.connections.close_codes import CloseCode
from bff.connections.event_stream_transport import CLOSED, EventStreamTransport, last_event
from bff.connections.positions import Position, parse_cursor
from bff.connections.transport import ABORT, PEER_TIMEOUT
from bff.endpoints.dependencies import Bearer, BffDep, address_of, log_refused
from bff.errors import Code, Problem
from bff.names import TOPIC_RULE, is_topic
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
_ABORT_SECONDS: Final = 1.0
"""How long to wait for the disconnect after an abort."""
_HEADERS: Final = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
_REFUSALS: Final = {
    CloseCode.CONNECTION_LIMIT: Code.RATE_LIMITED,
    CloseCode.TOKEN_EXPIRED: Code.UNAUTHENTICATED,
    CloseCode.REVOKED: Code.FORBIDDEN,
    CloseCode.SESSION_ENDED: Code.UNAUTHENTICATED,
}
"""Refusals with these close codes become an HTTP error, after which `EventSource` gives up. With
other codes a stream is started and ended, after which `EventSource` reconnects."""


class EventStreamResponse(Response):
    """Opens a connection when the response starts, and holds it until it is closed.

    Raises:
        Problem: the connection was refused, before anything was sent.
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
        ping_timeout: float,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(_HEADERS)
        self._caller = caller
        self._handlers = handlers
        self._since = since
        self._topics = topics
        self._ping_interval = ping_interval
        self._ping_timeout = ping_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["http_version"].startswith("1"):
            self.headers["Connection"] = "close"  # after the stream nothing else is sent on it
        transport = EventStreamTransport(
            send,
            self.raw_headers,
            refusals=_REFUSALS,
            ping_interval=self._ping_interval,
            ping_timeout=self._ping_timeout,
        )
        set_peer_timeout = scope.get("extensions", {}).get(PEER_TIMEOUT)
        if set_peer_timeout is not None:
            set_peer_timeout(self._ping_interval + self._ping_timeout)
        request = Request(scope)
        handler = self._handlers.open(
            transport,
            self._caller,
            address=address_of(request),
            user_agent=request.headers.get("user-agent", ""),
        )
        writing = asyncio.create_task(transport.run())
        disconnect = asyncio.create_task(_disconnected(receive))
        try:
            await self._handlers.admit(handler, self._since, self._topics)
            await asyncio.wait({writing, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._handlers.on_closed(handler, CloseCode.ABNORMAL)
            writing.cancel()
            if transport.started and not transport.ended:
                await _abort(scope, disconnect)
            disconnect.cancel()
        code, reason = transport.close_with
        if not transport.started and code in _REFUSALS:
            raise Problem(_REFUSALS[CloseCode(code)], reason)


def _closed_stream(code: CloseCode, reason: str) -> Response:
    """A stream that consists of the `close` event."""
    return Response(
        last_event(code, reason), headers=_HEADERS, media_type=EventStreamResponse.media_type
    )


async def _abort(scope: Scope, disconnect: asyncio.Task[None]) -> None:
    """Drop what is buffered for a peer that does not read. Works on `bff serve` only."""
    abort = scope.get("extensions", {}).get(ABORT)
    if abort is not None:
        abort()
        await asyncio.wait({disconnect}, timeout=_ABORT_SECONDS)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The data of each event is a frame of `bff.v1`; the first one is the hello",
        "content": {EventStreamResponse.media_type: {"example": _EXAMPLE}},
    },
    204: {"description": "The connection was closed for good: `EventSource` does not reconnect"},
    **responses(401, 403, 404, 422, 429, 503),
}


@router.get(
    "/events",
    summary="Live events, as server-sent events",
    status_code=200,
    response_class=EventStreamResponse,
    responses=_RESPONSES,
    dependencies=[Security(Bearer())],
)
async def events(
    request: Request,
    bff: BffDep,
    topics: Annotated[
        str, Query(max_length=3000, description="Topics to subscribe to, separated by commas")
    ] = "",
    since: Annotated[
        str,
        Query(
            description="The `id` of the last event, for clients that cannot set `Last-Event-ID`"
        ),
    ] = "",
    last_event_id: Annotated[
        str,
        Header(
            alias="Last-Event-ID",
            description="The `id` of the last event: missed events are sent first",
        ),
    ] = "",
) -> Response:
    """The events of `/ws`, from server to client only (`docs/protocol.md`).

    A draining instance responds 503, so that the proxy tries another instance. Other temporary
    failures start a stream and end it with the code 4006 or 4007, after which `EventSource`
    reconnects.
    """
    if CLOSED in (last_event_id, since):
        return Response(status_code=204)
    if bff.draining.begun:
        raise Problem(Code.SERVICE_UNAVAILABLE, "This instance is shutting down: reconnect")
    topic_list = _topics(topics, limit=bff.settings.max_topics_per_connection)
    positions = _positions(last_event_id.encode("latin-1"), since)
    try:
        bff.handshake_limit.check(address_of(request))
    except Problem as problem:
        return _closed_stream(CloseCode.TOO_MANY_REQUESTS, problem.description)
    try:
        caller = await bff.authenticator.authenticate_stream(request)
        if topic_list:
            await bff.dispatcher.check_topics(caller, topic_list)
    except Problem as problem:
        log_refused(request, problem)
        if problem.status == HTTPStatus.TOO_MANY_REQUESTS:
            return _closed_stream(CloseCode.TOO_MANY_REQUESTS, problem.description)
        if problem.status < Code.SERVICE_UNAVAILABLE.status:
            raise
        return _closed_stream(CloseCode.SERVER_ERROR, problem.description)
    return EventStreamResponse(
        caller,
        bff.handlers,
        positions,
        topic_list,
        ping_interval=bff.settings.ping_interval_seconds,
        ping_timeout=bff.settings.ping_timeout_seconds,
    )


def _topics(text: str, limit: int) -> list[str]:
    topics = list(dict.fromkeys(text.split(","))) if text else []
    if len(topics) > limit:
        raise Problem(Code.FORBIDDEN, f"A connection can have at most {limit} topics")
    for topic in topics:
        if not is_topic(topic):
            raise Problem(Code.INVALID_PARAMS, f"topics: {TOPIC_RULE}")
    return topics


def _positions(last_event_id: bytes, since: str) -> dict[str, Position]:
    """Prefer the header, which is newer than the URL. Browsers send it in UTF-8."""
    try:
        return parse_cursor(last_event_id.decode() or since)
    except ValueError as error:
        raise Problem(Code.INVALID_PARAMS, f"Last-Event-ID or since: {error}") from None
