"""Serves the protocol `bff.v1` on a WebSocket route (`docs/protocol.md`)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Final

from starlette.websockets import WebSocket

from bff.auth.caller import Caller
from bff.connections.asgi_transport import WebSocketTransport, accept
from bff.connections.close_codes import CloseCode
from bff.connections.positions import Position, parse_cursor
from bff.connections.transport import EXTENSION, Detachable, Transport
from bff.endpoints.dependencies import address_of, bff_of
from bff.problems import SocketRefused
from bff.realtime.connection_handler import ConnectionHandler
from bff.realtime.handler_manager import HandlerManager

_CLOSE_SECONDS: Final = 2.0
_STREAMS: Final = frozenset(("user", "all"))


async def serve(websocket: WebSocket, caller: Caller) -> None:
    """Accept a handshake and serve `bff.v1` on the connection.

    `?since=` holds the client's positions in the streams `user` and `all`. On `bff serve` this
    returns after the hello: the server then passes frames to the connection handler without an
    ASGI task. On other ASGI servers it returns when the connection is closed.

    Raises:
        SocketRefused: `since` is malformed.
    """
    try:
        since = _since(websocket)
    except ValueError as error:
        raise SocketRefused(CloseCode.BAD_FRAME, f"since: {error}") from None
    await accept(websocket)
    handlers = bff_of(websocket).handlers
    detachable: Detachable | None = websocket.scope.get("extensions", {}).get(EXTENSION)
    if detachable is None:
        await _serve_asgi(websocket, caller, handlers, since)
        return
    handler = _open(websocket, detachable, caller, handlers)
    if detachable.detach(handler.receive, partial(handlers.on_closed, handler)):
        await handlers.admit(handler, since)
    else:
        handlers.on_closed(handler, CloseCode.ABNORMAL)


def _since(websocket: WebSocket) -> dict[str, Position]:
    """The positions of `?since=`.

    Raises:
        ValueError: one is malformed, or in another stream than `user` and `all`.
    """
    if not websocket.scope["query_string"]:
        return {}
    since = parse_cursor(websocket.query_params.get("since", ""))
    if since.keys() - _STREAMS:
        raise ValueError("only for the streams user and all; send positions of topics in subscribe")
    return since


def _open(
    websocket: WebSocket, transport: Transport, caller: Caller, handlers: HandlerManager
) -> ConnectionHandler:
    return handlers.open(
        transport,
        caller,
        address=address_of(websocket),
        user_agent=websocket.headers.get("user-agent", ""),
    )


async def _serve_asgi(
    websocket: WebSocket, caller: Caller, handlers: HandlerManager, since: Mapping[str, Position]
) -> None:
    transport = WebSocketTransport(websocket.send)
    writing = asyncio.create_task(transport.run())
    handler = _open(websocket, transport, caller, handlers)
    code: int = CloseCode.ABNORMAL
    try:
        await handlers.admit(handler, since)
        code = await _read(websocket, handler, writing)
    finally:
        handlers.on_closed(handler, code)
        writing.cancel()


async def _read(
    websocket: WebSocket, handler: ConnectionHandler, writing: asyncio.Task[None]
) -> int:
    """Pass frames to the handler until the connection ends; returns the close code.

    After our own close frame the peer has 2 s to answer it.
    """
    reading = asyncio.create_task(_receive(websocket, handler))
    try:
        await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
        async with asyncio.timeout(_CLOSE_SECONDS):
            return await reading
    except TimeoutError:
        return CloseCode.ABNORMAL
    finally:
        reading.cancel()


async def _receive(websocket: WebSocket, handler: ConnectionHandler) -> int:
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return int(message.get("code") or 1005)
        text = message.get("text")
        handler.receive(message["bytes"] if text is None else text)
