"""The `bff.v1` conversation of an accepted WebSocket (`docs/protocol.md`)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Final

from starlette.websockets import WebSocket

from bff.application import Bff
from bff.auth.caller import Caller
from bff.connections.asgi_transport import WebSocketTransport, accept
from bff.connections.close_codes import CloseCode
from bff.connections.positions import Position, parse_cursor
from bff.connections.transport import EXTENSION, Detachable, Transport
from bff.problems import SocketRefused
from bff.realtime.connection_handler import ConnectionHandler
from bff.realtime.handler_manager import HandlerManager

_CLOSE_SECONDS: Final = 2.0
_STREAMS: Final = frozenset(("user", "all"))


async def serve(websocket: WebSocket, caller: Caller, bff: Bff) -> None:
    """Accept a handshake and speak `bff.v1` with the browser.

    `?since=` says how far the client has read its streams. On our own server this returns after
    the hello: the socket leaves its ASGI task, and the server feeds the conversation. On any other
    server it returns when the socket is closed.

    Raises:
        SocketRefused: `since` is malformed.
    """
    try:
        since = _since(websocket)
    except ValueError as error:
        raise SocketRefused(CloseCode.BAD_FRAME, f"since: {error}") from None
    await accept(websocket)
    handlers = bff.handlers
    detachable: Detachable | None = websocket.scope.get("extensions", {}).get(EXTENSION)
    if detachable is None:
        await _hold(websocket, caller, handlers, since)
        return
    handler = _open(websocket, detachable, caller, handlers)
    if detachable.detach(handler.receive, partial(handlers.close, handler)):
        await handlers.admit(handler, since)
    else:
        handlers.close(handler, 1006)


def _since(websocket: WebSocket) -> dict[str, Position]:
    """The positions in the streams that every socket has.

    Raises:
        ValueError: one is malformed, or of another stream.
    """
    if not websocket.scope["query_string"]:
        return {}
    since = parse_cursor(websocket.query_params.get("since", ""))
    if since.keys() - _STREAMS:
        raise ValueError("only user and all have positions here; topics have theirs in subscribe")
    return since


def _open(
    websocket: WebSocket, transport: Transport, caller: Caller, handlers: HandlerManager
) -> ConnectionHandler:
    client = websocket.client
    return handlers.open(
        transport,
        caller,
        address=client.host if client else "",
        device=websocket.headers.get("user-agent", ""),
    )


async def _hold(
    websocket: WebSocket, caller: Caller, handlers: HandlerManager, since: Mapping[str, Position]
) -> None:
    transport = WebSocketTransport(websocket.send)
    writing = asyncio.create_task(transport.run())
    handler = _open(websocket, transport, caller, handlers)
    code = 1006
    try:
        await handlers.admit(handler, since)
        code = await _read(websocket, handler, writing)
    finally:
        handlers.close(handler, code)
        writing.cancel()


async def _read(
    websocket: WebSocket, handler: ConnectionHandler, writing: asyncio.Task[None]
) -> int:
    """Feed the conversation; returns the code the socket ended with.

    Once our own close is written, the peer has 2 s to answer it.
    """
    reading = asyncio.create_task(_feed(websocket, handler))
    try:
        await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
        async with asyncio.timeout(_CLOSE_SECONDS):
            return await reading
    except TimeoutError:
        return 1006
    finally:
        reading.cancel()


async def _feed(websocket: WebSocket, handler: ConnectionHandler) -> int:
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return int(message.get("code") or 1005)
        text = message.get("text")
        handler.receive(message["bytes"] if text is None else text)
