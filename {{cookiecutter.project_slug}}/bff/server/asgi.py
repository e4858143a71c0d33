"""The ASGI side of a WebSocket, until the socket is closed or detached."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.utils import ClientDisconnected

from bff.connections.close_codes import CloseCode, is_sendable
from bff.connections.transport import EXTENSION
from bff.server import handshake
from bff.server.flush_scheduler import FlushScheduler
from bff.server.protocol import WebSocketProtocol

_REJECTED = 403
_NOT_ANSWERED = 500
_SHUTTING_DOWN = 503


class AsgiSocket:
    """The application's side of one socket (ASGI 3, WebSocket 2.4, with denial responses).

    It holds everything that only the handshake needs, so that its ASGI task frees it.
    """

    def __init__(
        self,
        scheduler: FlushScheduler,
        socket: WebSocketProtocol,
        scope: dict[str, Any],
        key: bytes,
        headers: handshake.Headers,
    ) -> None:
        """`key` is the result of `handshake.accept_key`; `headers` are added to every response."""
        self._scheduler = scheduler
        self._socket = socket
        self._scope = scope
        self._key = key
        self._headers = headers
        self._is_accepted = False
        """Whether the handshake was accepted."""
        self._denial: tuple[int, handshake.Headers] | None = None
        """Status and headers of a denial response whose body is not complete yet."""
        self._body = b""
        self._events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._events.put_nowait({"type": "websocket.connect"})

    def start(self, app: Any) -> None:
        """Run the application in a task, which the server awaits when it shuts down."""
        extensions = {"websocket.http.response": {}, EXTENSION: self._socket}
        self._scope["extensions"] = extensions
        self._socket.endpoint = self
        task = self._scheduler.loop.create_task(self._run(app))
        self._scheduler.tasks.add(task)
        task.add_done_callback(self._scheduler.tasks.discard)

    async def _run(self, app: Any) -> None:
        try:
            await app(self._scope, self._receive, self._send)
            if not self._is_accepted and not self._socket.is_closing:
                self._scheduler.logger.error(
                    "handshake not answered by the application", extra={"path": self._scope["path"]}
                )
        except ClientDisconnected:
            pass
        except asyncio.CancelledError:
            self._socket.close(CloseCode.INTERNAL_ERROR)
            raise
        except Exception:
            self._scheduler.logger.exception("Exception in ASGI application\n")
            self._socket.close(CloseCode.INTERNAL_ERROR)
        finally:
            if not self._is_accepted:
                self._reject(_NOT_ANSWERED)
            self._socket.release()

    # Called by the protocol

    def deliver(self, data: str | bytes) -> None:
        """A message has arrived."""
        kind = "text" if isinstance(data, str) else "bytes"
        self._events.put_nowait({"type": "websocket.receive", kind: data})

    def disconnect(self, code: int) -> None:
        """The connection is closed."""
        self._events.put_nowait({"type": "websocket.disconnect", "code": code})

    def drain_received(self) -> list[str | bytes]:
        """Remove and return the messages that the application has not received yet."""
        events = [self._events.get_nowait() for _ in range(self._events.qsize())]
        received = (one for one in events if one["type"] == "websocket.receive")
        return [one["text"] if "text" in one else one["bytes"] for one in received]

    def shutdown(self) -> None:
        """The server shuts down: reject a handshake that is still unanswered."""
        if not self._is_accepted:
            self._reject(_SHUTTING_DOWN)

    # Called by the application

    async def _receive(self) -> dict[str, Any]:
        if self._events.empty():
            self._socket.flush()
        event = await self._events.get()
        if self._events.empty():
            self._socket.resume_reading()
        return event

    async def _send(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        if self._socket.is_closing:
            raise ClientDisconnected
        match kind:
            case "websocket.accept" if not self._is_accepted and self._denial is None:
                self._accept(message)
            case "websocket.close" if not self._is_accepted and self._denial is None:
                self._reject(_REJECTED)
            case "websocket.http.response.start" if not self._is_accepted:
                self._denial = message["status"], list(message.get("headers", ()))
            case "websocket.http.response.body" if self._denial is not None:
                self._body += message.get("body", b"")
                if not message.get("more_body", False):
                    self._reject(*self._denial, self._body)
            case "websocket.send" if self._is_accepted:
                text = message.get("text")
                self._socket.send(message["bytes"] if text is None else text)
                await self._socket.drained()
            case "websocket.close" if self._is_accepted:
                code, reason = message.get("code") or CloseCode.NORMAL, message.get("reason") or ""
                if not is_sendable(code):
                    raise ValueError(f"{code} is not a close code that may be sent")
                self._socket.close(code, reason)
            case _:
                raise RuntimeError(f"Unexpected ASGI message '{kind}'.")

    def _accept(self, message: dict[str, Any]) -> None:
        headers = [*self._headers, *message.get("headers", ())]
        if subprotocol := message.get("subprotocol"):
            headers.append((b"sec-websocket-protocol", subprotocol.encode("latin-1")))
        response = handshake.accepted(self._key, headers)
        self._is_accepted = True
        self._socket.accept(response)

    def _reject(self, status: int, headers: handshake.Headers = (), body: bytes = b"") -> None:
        response = handshake.response(status, [*self._headers, *headers], body)
        self._socket.reject(response)
