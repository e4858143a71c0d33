"""An HTTP connection by a clock that the test moves, to an application that the test holds back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from bff.server.admission import Config
from bff.server.http import HttpProtocol
from bff.server.protocol import WebSocketProtocol
from uvicorn.server import ServerState

from tests.engine.server.doubles import ManualLoop, PeerTransport

HEAD_SECONDS = 30.0
KEEP_ALIVE_SECONDS = 3600
LARGE = 1_000_000
GET = b"GET /word HTTP/1.1\r\nHost: x\r\n\r\n"


def post(length: int) -> bytes:
    return b"POST /word HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length


class Site:
    """One connection to an application whose answers the test holds back, or lets go."""

    def __init__(self, last_request_seconds: float = 0.0, *, is_stalled: bool = False) -> None:
        self.loop = ManualLoop()
        self.transport = PeerTransport(self.loop)
        self.transport.is_stalled = is_stalled
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.scope: dict[str, Any] = {}
        """Of the last request."""
        self.bodies: list[bytes] = []
        config = Config(
            self.app,
            ws=WebSocketProtocol,
            interface="asgi3",
            lifespan="off",
            log_config=None,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        config.last_request_seconds = last_request_seconds
        loop: Any = self.loop
        transport: Any = self.transport
        self.state = self.make_state()
        self.protocol = HttpProtocol(config, self.state, {}, _loop=loop)
        self.transport.set_protocol(self.protocol)
        self.protocol.connection_made(transport)

    def make_state(self) -> ServerState:
        return ServerState()

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.scope = scope
        await self.may_answer.wait()
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        self.bodies.append(body)
        text = bytes(LARGE) if scope["path"] == "/large" else b"word"
        length = (b"content-length", b"%d" % len(text))
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": text})

    async def receives(self, data: bytes) -> None:
        self.protocol.data_received(data)
        await self.settle()

    async def settle(self) -> None:
        for _ in range(20):
            self.loop.settle()
            await asyncio.sleep(0)

    async def lives_for(self, seconds: float) -> bool:
        """Whether the connection is open after this time."""
        self.loop.advance(seconds)
        await self.settle()
        return not self.transport.is_lost

    @property
    def answers(self) -> int:
        return self.transport.written.count(b"HTTP/1.1 200 OK\r\n")


AnySite = TypeVar("AnySite", bound=Site)


@asynccontextmanager
async def closed_at_the_end(site: AnySite) -> AsyncIterator[AnySite]:
    """Close the connection at the end, and check that it leaves nothing behind."""
    yield site
    site.transport.abort()
    site.may_answer.set()
    await site.settle()
    assert not site.loop.timers
    assert not site.state.connections
