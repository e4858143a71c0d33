"""What an ASGI application sees of a socket, until it is closed or detached."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from uvicorn.protocols.utils import ClientDisconnected

from app.connections.transport import EXTENSION
from app.server import handshake
from app.server.codes import INTERNAL_ERROR, NORMAL
from app.server.protocol import WebSocketProtocol
from app.server.sockets import Sockets

_REFUSED = 403
_NO_ANSWER = 500
_SHUT_DOWN = 503


class AsgiSocket:
    """The application's side of one socket (ASGI 3, WebSocket 2.4, with denial responses).

    Everything that only the handshake needs hangs on it, so that it goes with its task.
    """

    def __init__(
        self, sockets: Sockets, socket: WebSocketProtocol, scope: dict[str, Any], key: bytes
    ) -> None:
        """`key` is that of `handshake.accept_key`."""
        self._sockets = sockets
        self._socket = socket
        self._scope = scope
        self._key = key
        self._is_answered = False
        """Whether the handshake was accepted or refused."""
        self._refusal: tuple[int, handshake.Headers] | None = None
        self._body = b""
        self._events: deque[dict[str, Any]] = deque(({"type": "websocket.connect"},))
        self._arrival: asyncio.Future[None] | None = None

    def start(self, app: Any) -> None:
        """Run the application, in a task that the server waits for when it shuts down."""
        extensions = {"websocket.http.response": {}, EXTENSION: self._socket}
        self._scope["extensions"] = extensions
        self._socket.asgi = self
        task = self._sockets.loop.create_task(self._run(app))
        self._sockets.tasks.add(task)
        task.add_done_callback(self._sockets.tasks.discard)

    async def _run(self, app: Any) -> None:
        try:
            await app(self._scope, self._receive, self._send)
            if not self._is_answered:
                self._sockets.logger.error("the application did not answer a handshake")
        except ClientDisconnected:
            pass
        except Exception:
            self._sockets.logger.exception("Exception in ASGI application\n")
            if self._is_answered:
                self._socket.close(INTERNAL_ERROR)
        finally:
            if not self._is_answered:
                self._refuse(_NO_ANSWER)
            self._socket.let_go()

    # The server's half

    def take(self, data: str | bytes) -> None:
        """A message has come."""
        kind = "text" if isinstance(data, str) else "bytes"
        self._put({"type": "websocket.receive", kind: data})

    def disconnect(self, code: int) -> None:
        """The socket is gone."""
        self._put({"type": "websocket.disconnect", "code": code})

    def taken(self) -> list[str | bytes]:
        """Messages that the application has not received."""
        received = (one for one in self._events if one["type"] == "websocket.receive")
        return [one["text"] if "text" in one else one["bytes"] for one in received]

    def stop(self) -> None:
        """The server shuts down: who still waits for an answer gets one."""
        if not self._is_answered:
            self._refuse(_SHUT_DOWN)

    def _put(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    # The application's half

    async def _receive(self) -> dict[str, Any]:
        while not self._events:
            self._arrival = self._sockets.loop.create_future()
            await self._arrival
        event = self._events.popleft()
        if not self._events:
            self._socket.resume_reading()
        return event

    async def _send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if self._socket.is_closing:
            raise ClientDisconnected
        match kind:
            case "websocket.accept" if not self._is_answered and self._refusal is None:
                self._accept(message)
            case "websocket.close" if not self._is_answered and self._refusal is None:
                self._refuse(_REFUSED)
            case "websocket.http.response.start" if not self._is_answered:
                self._refusal = message["status"], list(message.get("headers", ()))
            case "websocket.http.response.body" if self._refusal is not None:
                self._body += message.get("body", b"")
                if not message.get("more_body", False):
                    self._refuse(*self._refusal, self._body)
            case "websocket.send" if self._is_answered:
                text = message.get("text")
                self._socket.send(message["bytes"] if text is None else text)
                await self._socket.drained()
            case "websocket.close" if self._is_answered:
                code, reason = message.get("code") or NORMAL, message.get("reason") or ""
                self._socket.close(code, reason)
            case _:
                raise RuntimeError(f"Unexpected ASGI message '{kind}'.")

    def _accept(self, message: dict[str, Any]) -> None:
        headers = [*self._sockets.default_headers, *message.get("headers", ())]
        if subprotocol := message.get("subprotocol"):
            headers.append((b"sec-websocket-protocol", subprotocol.encode("latin-1")))
        self._is_answered = True
        self._socket.open(handshake.accepted(self._key, headers))

    def _refuse(self, status: int, headers: handshake.Headers = (), body: bytes = b"") -> None:
        self._is_answered = True
        self._socket.refuse(
            handshake.response(status, [*self._sockets.default_headers, *headers], body)
        )
