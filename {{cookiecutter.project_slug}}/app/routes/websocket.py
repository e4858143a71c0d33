"""`/ws`: where browsers connect."""

from __future__ import annotations

import logging

from fastapi import Response, WebSocket
from starlette.types import ASGIApp, Receive, Scope, Send

from app.cluster.redis import UNAVAILABLE
from app.connections.close_codes import CloseCode
from app.connections.messages import SUBPROTOCOL
from app.connections.positions import Position, parse_cursor
from app.errors import Code, Problem
from app.realtime.asgi import serve

logger = logging.getLogger(__name__)
PATH = "/ws"


class SocketsFirst:
    """Middleware that takes handshakes to the endpoint past FastAPI's own layers and its routing,
    which have nothing to do for them and cost as much as to check a token."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "websocket"
            and scope["path"].removeprefix(scope.get("root_path", "")) == PATH
        ):
            await websocket(WebSocket(scope, receive, send))
        else:
            await self._app(scope, receive, send)


async def websocket(websocket: WebSocket) -> None:
    """Speak `bff.v1` with a browser (the template's `docs/protocol.md`).

    A wrong Origin is refused with HTTP 403, and on a draining instance everybody with 503, which
    the proxy answers by asking another instance. Other refusals are accepted and then closed with
    a code, because browsers do not show their pages the status of a refused handshake.
    """
    state = websocket.app.state
    if state.draining.begun:
        await _refuse_handshake(websocket)
        return
    try:
        since = _since(websocket)
        caller = await state.authenticator.authenticate_socket(websocket)
    except ValueError as error:
        await _accept(websocket)
        await websocket.close(CloseCode.BAD_FRAME, f"since: {error}")
    except Problem as problem:
        await _refuse(websocket, problem)
    except UNAVAILABLE as error:
        logger.warning("nobody can be let in, Redis: %s: %s", type(error).__name__, error)
        await _refuse(websocket, Problem(Code.SERVICE_UNAVAILABLE, "Try again"))
    else:
        await _accept(websocket)
        await serve(websocket, caller, state.sessions, since)


def _since(websocket: WebSocket) -> dict[str, Position]:
    """How far the client has read the streams that every socket has.

    Raises:
        ValueError: what is given is no position in one of them.
    """
    if not websocket.scope["query_string"]:
        return {}
    since = parse_cursor(websocket.query_params.get("since", ""))
    if since.keys() - {"user", "all"}:
        raise ValueError("only user and all have positions here; topics have theirs in subscribe")
    return since


async def _accept(websocket: WebSocket) -> None:
    offered = websocket.scope.get("subprotocols", ())
    await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)


async def _refuse_handshake(websocket: WebSocket) -> None:
    """Refuse with 503, or with 403 on a server that knows no other."""
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(Response(status_code=503))
    else:
        await websocket.close()


async def _refuse(websocket: WebSocket, problem: Problem) -> None:
    if problem.code is Code.FORBIDDEN:
        await websocket.close()
        return
    await _accept(websocket)
    signed_out = problem.code is Code.UNAUTHENTICATED
    code = CloseCode.NOT_AUTHENTICATED if signed_out else CloseCode.SERVER_ERROR
    await websocket.close(code, problem.description)
