"""The `bff.v1` conversation of an accepted WebSocket (`docs/protocol.md`)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Final

from starlette.websockets import WebSocket

from bff.application import Bff
from bff.auth.caller import Caller
from bff.connections.asgi import WebSocketTransport, accept
from bff.connections.close_codes import CloseCode
from bff.connections.positions import Position, parse_cursor
from bff.connections.transport import EXTENSION, Detachable, Transport
from bff.problems import SocketRefused
from bff.realtime.conversation import Conversation
from bff.realtime.sessions import Sessions

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
    sessions = bff.sessions
    detachable: Detachable | None = websocket.scope.get("extensions", {}).get(EXTENSION)
    if detachable is None:
        await _hold(websocket, caller, sessions, since)
        return
    conversation = _begin(websocket, detachable, caller, sessions)
    if detachable.detach(conversation.receive, partial(sessions.close, conversation)):
        await sessions.admit(conversation, since)
    else:
        sessions.close(conversation, 1006)


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


def _begin(
    websocket: WebSocket, transport: Transport, caller: Caller, sessions: Sessions
) -> Conversation:
    client = websocket.client
    return sessions.begin(
        transport,
        caller,
        address=client.host if client else "",
        device=websocket.headers.get("user-agent", ""),
    )


async def _hold(
    websocket: WebSocket, caller: Caller, sessions: Sessions, since: Mapping[str, Position]
) -> None:
    transport = WebSocketTransport(websocket.send)
    writing = asyncio.create_task(transport.run())
    conversation = _begin(websocket, transport, caller, sessions)
    code = 1006
    try:
        await sessions.admit(conversation, since)
        code = await _read(websocket, conversation, writing)
    finally:
        sessions.close(conversation, code)
        writing.cancel()


async def _read(
    websocket: WebSocket, conversation: Conversation, writing: asyncio.Task[None]
) -> int:
    """Feed the conversation; returns the code the socket ended with.

    Once our own close is written, the peer has 2 s to answer it.
    """
    reading = asyncio.create_task(_feed(websocket, conversation))
    try:
        await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
        async with asyncio.timeout(_CLOSE_SECONDS):
            return await reading
    except TimeoutError:
        return 1006
    finally:
        reading.cancel()


async def _feed(websocket: WebSocket, conversation: Conversation) -> int:
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            return int(message.get("code") or 1005)
        text = message.get("text")
        conversation.receive(message["bytes"] if text is None else text)
