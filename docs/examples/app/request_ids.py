"""An id for each request and each handshake, in the header `X-Request-Id` of the response."""

from __future__ import annotations

import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

RESPONSES = ("http.response.start", "websocket.accept", "websocket.http.response.start")


class RequestIds:
    """Pure ASGI middleware: for HTTP requests and WebSocket handshakes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = secrets.token_hex(8).encode()

        async def send_with_id(message: Message) -> None:
            if message["type"] in RESPONSES:
                headers = [*message.get("headers", []), (b"x-request-id", request_id)]
                message = {**message, "headers": headers}
            await send(message)

        await self.app(scope, receive, send_with_id)
