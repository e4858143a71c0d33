"""Runs a BFF on a real server, with clients that connect over TCP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
import uvicorn
import websockets
from fastapi import FastAPI

from bff.application import Bff
from bff.auth.tokens import issue
from bff.mesh.connect import connect_mesh
from bff.mesh.service import Publish, Service
from bff.server.run import Server, configuration
from bff.settings import Settings
from bff.testing.clients import SECONDS, Browser, EventSource
from bff.testing.waiting import until


@dataclass
class RunningBff:
    """A BFF served on a free port."""

    app: FastAPI
    engine: Bff
    """The parts of the BFF: `messenger`, `mesh`, `database`, `metrics`, …"""
    settings: Settings
    address: str
    """Host and port."""
    server: uvicorn.Server

    def token(
        self,
        user: str,
        scopes: Sequence[str] = (),
        lifetime: int = 600,
        *,
        session_id: str | None = None,
        token_id: str | None = None,
    ) -> str:
        """A token of that user, valid for `lifetime` seconds, with these `sid` and `jti`."""
        return issue(
            self.settings,
            user,
            scopes,
            lifetime=lifetime,
            session_id=session_id,
            token_id=token_id,
        )

    @asynccontextmanager
    async def browser(
        self,
        user: str = "alice",
        scopes: Sequence[str] = (),
        *,
        query: str = "",
        **options: Any,
    ) -> AsyncIterator[Browser]:
        """A connected WebSocket of that user, after the hello. `options`: `token`, or those of
        `websockets.connect`."""
        token = options.pop("token", None) or self.token(user, scopes)
        headers = {"Authorization": f"Bearer {token}"}
        async with self.handshake(query, headers, **options) as browser:
            hello = await browser.receive()
            browser.hello = hello["payload"]["event"]
            yield browser

    @asynccontextmanager
    async def handshake(
        self,
        query: str = "",
        headers: dict[str, str] | None = None,
        *,
        path: str = "/ws",
        **options: Any,
    ) -> AsyncIterator[Browser]:
        """A connected WebSocket, opened with these headers; the test reads the first frame."""
        async with websockets.connect(
            f"ws://{self.address}{path}{query}", additional_headers=headers, **options
        ) as websocket:
            yield Browser(websocket)

    @asynccontextmanager
    async def events(
        self,
        user: str = "alice",
        scopes: Sequence[str] = (),
        *,
        last_event_id: str = "",
        token: str = "",
        **query: str,
    ) -> AsyncIterator[EventSource]:
        """An open event stream of that user, after the hello."""
        headers = {"Authorization": f"Bearer {token or self.token(user, scopes)}"}
        if last_event_id:
            headers["Last-Event-ID"] = last_event_id
        async with self.event_stream(headers, **query) as source:
            assert source.response.status_code == 200, await source.response.aread()
            hello = await source.receive()
            assert hello["payload"]["topic"] == "hello"
            source.hello = hello["payload"]["event"]
            yield source

    @asynccontextmanager
    async def event_stream(
        self, headers: dict[str, str] | None = None, **query: str
    ) -> AsyncIterator[EventSource]:
        """The response to a request for an event stream; the test reads the events."""
        encoded = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        async with (
            httpx2.AsyncClient(base_url=f"http://{self.address}", timeout=SECONDS) as http,
            http.stream("GET", "/events", params=query, headers=encoded) as response,
        ):
            yield EventSource(response)

    def http(self, user: str = "alice", scopes: Sequence[str] = ()) -> httpx2.AsyncClient:
        """An HTTP client of that user."""
        return httpx2.AsyncClient(
            base_url=f"http://{self.address}",
            headers={"Authorization": f"Bearer {self.token(user, scopes)}"},
            timeout=SECONDS,
        )

    @asynccontextmanager
    async def mesh_service(self, service: Service) -> AsyncIterator[None]:
        """Run a mesh service until the end of the block."""
        async with serve_on_mesh(self.engine, lambda _: service):
            yield


@asynccontextmanager
async def run(
    app: FastAPI, *, ws: str | None = None, listener: socket.socket | None = None
) -> AsyncIterator[RunningBff]:
    """Serve an app on a free port until the end of the block.

    With RabbitMQ, the app's stand-ins are run too. `ws`: another WebSocket protocol class, like
    uvicorn's option. `listener`: a listening socket to serve on, for settings that name its port.
    """
    engine: Bff = app.state.bff
    settings = engine.settings
    async with AsyncExitStack() as stack:
        server, address = await stack.enter_async_context(
            serve(settings, app, listener=listener, ws=ws)
        )
        if settings.amqp_url != "memory://":
            await stack.enter_async_context(serve_on_mesh(engine, *engine.stand_ins))
        yield RunningBff(app, engine, settings, address, server)


@asynccontextmanager
async def serve_on_mesh(
    engine: Bff, *services: Callable[[Publish], Service]
) -> AsyncIterator[None]:
    """Run services on the mesh of a running BFF, over their own connection."""
    mesh = connect_mesh(engine.settings, broker=engine.broker)
    for make in services:
        mesh.add_service(make(mesh.publish))
    await mesh.start()
    try:
        async with asyncio.timeout(SECONDS):
            await until(lambda: mesh.status.connected and engine.mesh.status.connected)
        yield
    finally:
        await mesh.stop()


@asynccontextmanager
async def serve(
    settings: Settings, app: Any, *, listener: socket.socket | None = None, **options: Any
) -> AsyncIterator[tuple[uvicorn.Server, str]]:
    """Serve any ASGI application as `bff serve` does. Yields the server and its `host:port`.

    Raises:
        RuntimeError: the application did not start.
    """
    with listener or socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(configuration(settings, app, **options))
        serving = asyncio.create_task(_serve(server, listener))
        try:
            await until(lambda: server.started or serving.done())
            if serving.done():
                await serving
            host, port = listener.getsockname()
            yield server, f"{host}:{port}"
        finally:
            server.should_exit = True
            await serving


async def _serve(server: uvicorn.Server, listener: socket.socket) -> None:
    try:
        await server.serve(sockets=[listener])
    except SystemExit:  # uvicorn's: it would end pytest too
        raise RuntimeError("the app did not start: its log says why") from None
