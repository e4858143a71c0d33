"""Joins a socket that was accepted to its conversation."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from starlette.websockets import WebSocket

from app.auth.caller import Caller
from app.connections.asgi import WebSocketTransport
from app.connections.positions import Position
from app.connections.transport import EXTENSION, Detachable, Transport
from app.realtime.conversation import Conversation
from app.realtime.sessions import Sessions

_CLOSE_SECONDS = 2.0


async def serve(
    websocket: WebSocket, caller: Caller, sessions: Sessions, since: Mapping[str, Position]
) -> None:
    """Let an accepted socket in, whose client has read its streams up to `since`.

    On our own server this returns after the hello: the socket leaves its ASGI task, and the
    server feeds the conversation. On any other it returns when the socket is gone.
    """
    detachable: Detachable | None = websocket.scope.get("extensions", {}).get(EXTENSION)
    if detachable is None:
        await _hold(websocket, caller, sessions, since)
        return
    conversation = _begin(websocket, detachable, caller, sessions)
    if detachable.detach(conversation.receive, partial(sessions.close, conversation)):
        await sessions.admit(conversation, since)
    else:
        sessions.close(conversation, 1006)


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
