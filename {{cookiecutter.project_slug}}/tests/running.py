"""A BFF on a real server, and browsers that talk to it through real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
import websockets
from fastapi import FastAPI

from app.auth.tokens import issue
from app.development.orders_service import orders_service
from app.main import create_app
from app.mesh.client import connect
from app.mesh.memory import MemoryBroker
from app.server.run import Server, configuration
from app.settings import Settings
from tests.waiting import until

SECRET = "a-secret-for-tests-only-0123456789abcdef"
SECONDS = 15


class Browser:
    """A socket as a page has it: frames as dicts, every wait with a deadline."""

    def __init__(self, websocket: websockets.ClientConnection) -> None:
        self.websocket = websocket
        self.hello: dict[str, Any] = {}
        self._passed_over: list[dict[str, Any]] = []

    async def send(self, frame: Any) -> None:
        """Send a dict as JSON, text and bytes as they are."""
        raw = frame if isinstance(frame, str | bytes) else json.dumps(frame)
        await self.websocket.send(raw)

    async def receive(self) -> dict[str, Any]:
        """The next frame."""
        return await self._first(lambda frame: True)

    async def event(self, topic: str) -> dict[str, Any]:
        """The payload of the next event of that topic; other frames stay for later."""
        frame = await self._first(
            lambda frame: frame["type"] == "event" and frame["payload"]["topic"] == topic
        )
        payload: dict[str, Any] = frame["payload"]
        return payload

    async def request(self, service: str, method: str, **params: Any) -> dict[str, Any]:
        """The payload of the response to a request; other frames stay for later."""
        trace_id = f"{service}.{method}"
        call = {"service": service, "method": method, "params": params, "trace_id": trace_id}
        return await self.ask({"type": "request", "payload": call})

    async def subscribe(self, *topics: str, **since: str) -> dict[str, Any]:
        """The payload of the response to a subscription; `since` are ids, by topic."""
        wishes = [{"topic": topic, "since": since.get(topic)} for topic in topics]
        wish = {"topics": wishes, "trace_id": f"subscribe {' '.join(topics)}"}
        return await self.ask({"type": "subscribe", "payload": wish})

    async def ask(self, frame: dict[str, Any]) -> dict[str, Any]:
        """Send a frame; the payload of the answer that has its trace id."""
        await self.send(frame)
        return await self.answer(frame["payload"]["trace_id"])

    async def answer(self, trace_id: str) -> dict[str, Any]:
        """The payload of the answer that has this trace id; other frames stay for later."""
        answer = await self._first(lambda frame: frame["payload"].get("trace_id") == trace_id)
        payload: dict[str, Any] = answer["payload"]
        return payload

    async def _first(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        for number, earlier in enumerate(self._passed_over):
            if wanted(earlier):
                return self._passed_over.pop(number)
        async with asyncio.timeout(SECONDS):
            while True:
                frame: dict[str, Any] = json.loads(await self.websocket.recv())
                if wanted(frame):
                    return frame
                self._passed_over.append(frame)

    def passed_over(self) -> list[dict[str, Any]]:
        """Frames that came and were not waited for."""
        return self._passed_over

    async def closed(self) -> int | None:
        """The code that the server closes with; frames before it are passed over."""
        async with asyncio.timeout(SECONDS):
            with suppress(websockets.ConnectionClosed):
                while True:
                    await self.websocket.recv()
        return self.websocket.close_code


class EventSource:
    """An event stream as a browser reads it (WHATWG HTML, section 9.2.6)."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.hello: dict[str, Any] = {}
        self.last_event_id = ""
        self.retry: int | None = None
        self.comments = 0
        self._lines = self._read_lines()

    async def receive(self) -> dict[str, Any]:
        """The data of the next event, which must be one line of JSON."""
        data: list[bytes] = []
        async with asyncio.timeout(SECONDS):
            async for line in self._lines:
                field, _, value = line.partition(b": ")
                if line.startswith(b":"):
                    self.comments += 1
                elif field == b"data":
                    data.append(value)
                elif field == b"id":
                    self.last_event_id = value.decode()
                elif field == b"retry":
                    self.retry = int(value)
                elif not line and data:
                    (text,) = data
                    frame: dict[str, Any] = json.loads(text)
                    return frame
                else:
                    assert not line, line
        raise EOFError

    async def event(self, topic: str) -> dict[str, Any]:
        """The payload of the next event of that topic; others are passed over."""
        while True:
            frame = await self.receive()
            if frame["type"] == "event" and frame["payload"]["topic"] == topic:
                payload: dict[str, Any] = frame["payload"]
                return payload

    async def closed(self) -> int | None:
        """The code of the `close` with which the stream must end; others are passed over."""
        code = None
        with suppress(EOFError):
            while True:
                frame = await self.receive()
                assert code is None
                if frame["type"] == "close":
                    code = frame["payload"]["code"]
        return code

    async def _read_lines(self) -> AsyncIterator[bytes]:
        """Not httpx' own, which end at line breaks that are none here."""
        rest = b""
        async for chunk in self.response.aiter_bytes():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                assert b"\r" not in line
                yield line


@dataclass
class Bff:
    """A running BFF."""

    app: FastAPI
    settings: Settings
    address: str
    server: uvicorn.Server
    broker: MemoryBroker
    """The mesh of `AMQP_URL=memory://`."""

    def token(self, user: str, scopes: Sequence[str] = ("orders",), lifetime: int = 600) -> str:
        return issue(self.settings, user, scopes, lifetime=lifetime)

    @asynccontextmanager
    async def browser(
        self,
        user: str = "alice",
        scopes: Sequence[str] = ("orders",),
        *,
        query: str = "",
        **options: Any,
    ) -> AsyncIterator[Browser]:
        """An open socket of that user, past its hello."""
        token = options.pop("token", None) or self.token(user, scopes)
        headers = {"Authorization": f"Bearer {token}"}
        async with self.handshake(query, headers, **options) as browser:
            hello = await browser.receive()
            browser.hello = hello["payload"]["event"]
            yield browser

    @asynccontextmanager
    async def handshake(
        self, query: str = "", headers: dict[str, str] | None = None, **options: Any
    ) -> AsyncIterator[Browser]:
        """A socket opened with these headers; what comes first is for the test to read."""
        async with websockets.connect(
            f"ws://{self.address}/ws{query}", additional_headers=headers, **options
        ) as websocket:
            yield Browser(websocket)

    @asynccontextmanager
    async def events(
        self,
        user: str = "alice",
        scopes: Sequence[str] = ("orders",),
        *,
        last_event_id: str = "",
        token: str = "",
        **query: str,
    ) -> AsyncIterator[EventSource]:
        """An open event stream of that user, past its hello."""
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
        """The answer to a request for an event stream; what comes is for the test to read."""
        encoded = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        async with (
            httpx.AsyncClient(base_url=f"http://{self.address}", timeout=SECONDS) as http,
            http.stream("GET", "/events", params=query, headers=encoded) as response,
        ):
            yield EventSource(response)

    def http(self, user: str = "alice", scopes: Sequence[str] = ("orders",)) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=f"http://{self.address}",
            headers={"Authorization": f"Bearer {self.token(user, scopes)}"},
            timeout=SECONDS,
        )


@asynccontextmanager
async def run(
    settings: Settings,
    app: FastAPI | None = None,
    ws: str | None = None,
    broker: MemoryBroker | None = None,
) -> AsyncIterator[Bff]:
    """Serve on a free port until the end of the block; `ws` is another WebSocket protocol."""
    broker = broker or MemoryBroker()
    app = app or create_app(settings, broker=broker)
    async with (
        serve(settings, app, ws=ws) as (server, address),
        _orders(settings, app, broker),
    ):
        yield Bff(app, settings, address, server, broker)


@asynccontextmanager
async def serve(
    settings: Settings, app: Any, **options: Any
) -> AsyncIterator[tuple[uvicorn.Server, str]]:
    """Any ASGI application on our server: the server, and where it listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(configuration(settings, app, **options))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await until(lambda: server.started or serving.done())
            host, port = listener.getsockname()
            yield server, f"{host}:{port}"
        finally:
            server.should_exit = True
            await serving


@asynccontextmanager
async def _orders(settings: Settings, app: FastAPI, broker: MemoryBroker) -> AsyncIterator[None]:
    """The example service, on whatever mesh there is."""
    service = orders_service(app.state.mesh.publish)
    if settings.amqp_url == "memory://":
        broker.serve(service)
        yield
        return
    mesh = connect(settings)
    mesh.add_service(service)
    await mesh.start()
    async with asyncio.timeout(SECONDS):
        await until(lambda: mesh.status.connected and app.state.mesh.status.connected)
    yield
    await mesh.stop()
