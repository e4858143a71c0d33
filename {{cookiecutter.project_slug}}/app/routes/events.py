"""`/events`: what a socket brings, as server-sent events, through proxies that break sockets."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request, Response, Security

from app.auth.dependencies import bearer
from app.connections.close_codes import CloseCode
from app.connections.event_stream import CLOSED
from app.connections.positions import TOPIC, Position, parse_cursor
from app.errors import Code, Problem
from app.realtime.event_stream import EventStream, ended
from app.routes import problems

router = APIRouter(tags=["events"])

_EXAMPLE: Final = """\
retry: 2310

id: user/9d0c4f1e66/41,all/9d0c4f1e67/7
data: {"type":"event","payload":{"topic":"hello","event":{"session_id":"9f854975de87.YdlYBETb"}}}

id: user/9d0c4f1e66/42,all/9d0c4f1e67/7
data: {"type":"event","payload":{"topic":"news","event":1,"id":"user/9d0c4f1e66/42"}}

"""
_RESPONSES: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Each event's data is a frame of `bff.v1`, the first one the hello",
        "content": {EventStream.media_type: {"example": _EXAMPLE}},
    },
    204: {"description": "The stream was ended for good: `EventSource` does not come back"},
    **problems.responses(401, 403, 404, 422, 429, 503),
}


@router.get(
    "/events",
    summary="Live events, as server-sent events",
    status_code=200,
    response_class=EventStream,
    responses=_RESPONSES,
    dependencies=[Security(bearer)],
)
async def events(
    request: Request,
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
    """The same events as at `/ws` (the template's `docs/protocol.md`), for listening only.

    A draining instance refuses with 503, which the proxy answers by asking another instance. What
    would pass by itself begins a stream and ends it with the code 4006.
    """
    state = request.app.state
    if CLOSED in (last_event_id, since):
        return Response(status_code=204)
    if state.draining.begun:
        raise Problem(Code.SERVICE_UNAVAILABLE, "This instance is going away")
    wished = _topics(topics, at_most=state.settings.topics_per_connection)
    positions = _positions(last_event_id.encode("latin-1"), since)
    try:
        caller = await state.authenticator.authenticate_stream(request)
        await state.dispatcher.check_topics(caller, wished)
    except Problem as problem:
        if problem.status < Code.SERVICE_UNAVAILABLE.status:
            raise
        return ended(CloseCode.SERVER_ERROR, problem.description)
    return EventStream(
        caller, state.sessions, positions, wished, ping_interval=state.settings.ping_interval
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
