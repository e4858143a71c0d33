"""ASGI endpoints see the same on our WebSocket protocol as on uvicorn's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import websockets
from bff.connections.close_codes import CloseCode
from bff.settings import Settings
from bff.testing import until
from bff.testing.running import serve
from fastapi import FastAPI, Response, WebSocket, WebSocketDisconnect
from websockets.typing import Subprotocol

from tests.engine.server.test_protocol import masked

LARGE = 1 << 20


@dataclass
class Endpoints:
    """An application with one endpoint per behaviour; `seen` records what they observe."""

    app: FastAPI = field(default_factory=FastAPI)
    address: str = ""
    seen: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        for endpoint in (
            self.echo,
            self.close,
            self.refuse,
            self.deny,
            self.raise_before_accept,
            self.raise_after_accept,
            self.return_after_accept,
            self.cancel,
            self.inject_header,
            self.close_with_invalid_code,
            self.close_with_long_reason,
            self.receive_twice,
            self.receive_slowly,
            self.send_endlessly,
        ):
            self.app.websocket(f"/{endpoint.__name__}")(endpoint)

    async def echo(self, websocket: WebSocket) -> None:
        await websocket.accept("two", headers=[(b"x-greeting", b"hello")])
        try:
            while True:
                message = await websocket.receive()
                if message["type"] == "websocket.disconnect":
                    raise WebSocketDisconnect(message["code"])
                if (text := message.get("text")) is not None:
                    await websocket.send_text(text)
                else:
                    await websocket.send_bytes(message["bytes"])
        except WebSocketDisconnect as gone:
            self.seen.append(gone.code)

    async def close(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close(4321, "enough")

    async def refuse(self, websocket: WebSocket) -> None:
        await websocket.close()

    async def deny(self, websocket: WebSocket) -> None:
        denial = Response("short and stout", status_code=418, headers={"x-why": "teapot"})
        await websocket.send_denial_response(denial)

    async def raise_before_accept(self, websocket: WebSocket) -> None:
        raise RuntimeError("before it was accepted")

    async def raise_after_accept(self, websocket: WebSocket) -> None:
        await websocket.accept()
        raise RuntimeError("after it was accepted")

    async def return_after_accept(self, websocket: WebSocket) -> None:
        await websocket.accept()

    async def cancel(self, websocket: WebSocket) -> None:
        await websocket.accept()
        raise asyncio.CancelledError

    async def inject_header(self, websocket: WebSocket) -> None:
        await websocket.accept(headers=[(b"x", b"1\r\nset-cookie: evil=1")])

    async def close_with_invalid_code(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close(1005)

    async def close_with_long_reason(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close(4000, "x" + "\N{SNOWMAN}" * 100)

    async def receive_twice(self, websocket: WebSocket) -> None:
        """Receive in two tasks concurrently."""
        await websocket.accept()
        received = await asyncio.gather(websocket.receive(), websocket.receive())
        self.seen.extend(message["type"] for message in received)

    async def receive_slowly(self, websocket: WebSocket) -> None:
        """Wait 3 s between the first message and the second."""
        await websocket.accept()
        await websocket.receive()
        await asyncio.sleep(3)
        await websocket.receive()
        await websocket.close(4321)

    async def send_endlessly(self, websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            while True:
                await websocket.send_bytes(bytes(LARGE))
                self.seen.append(LARGE)
        except WebSocketDisconnect:
            self.seen.append("gone")

    def connect(self, path: str, **options: Any) -> websockets.connect:
        return websockets.connect(f"ws://{self.address}{path}", **options)


@pytest.fixture(params=[None, "websockets-sansio"], ids=["ours", "uvicorn's"])
def ws(request: pytest.FixtureRequest) -> str | None:
    value: str | None = request.param
    return value


@pytest.fixture
async def endpoints(settings: Settings, ws: str | None) -> AsyncIterator[Endpoints]:
    made = Endpoints()
    async with serve(settings, made.app, ws=ws) as (_, made.address):
        yield made


async def code_of(websocket: websockets.ClientConnection) -> int | None:
    async with asyncio.timeout(15):
        await websocket.wait_closed()
    return websocket.close_code


async def test_text_and_binary_messages_in_both_directions(endpoints: Endpoints) -> None:
    async with endpoints.connect("/echo", subprotocols=["one", "two"]) as websocket:
        assert websocket.subprotocol == "two"
        assert websocket.response is not None
        assert websocket.response.headers["x-greeting"] == "hello"
        for message in ("", "text", b"", b"bytes", "\N{SNOWMAN}" * 20_000, ["in", "pieces"]):
            await websocket.send(message)
            expected = "inpieces" if isinstance(message, list) else message
            assert await websocket.recv() == expected
        await websocket.close(4000)
    await until(lambda: endpoints.seen == [4000])


async def test_many_messages_are_echoed_in_order(endpoints: Endpoints) -> None:
    async with endpoints.connect("/echo", subprotocols=["two"]) as websocket:
        for number in range(500):
            await websocket.send(str(number))
        assert [await websocket.recv() for _ in range(500)] == [str(n) for n in range(500)]


async def test_an_aborted_connection_raises_a_disconnect(endpoints: Endpoints) -> None:
    async with endpoints.connect("/echo", subprotocols=["two"]) as websocket:
        websocket.transport.abort()
        await until(lambda: len(endpoints.seen) == 1)
    assert endpoints.seen[0] in (CloseCode.NO_STATUS, CloseCode.ABNORMAL)


async def test_an_endpoint_closes_with_a_code(endpoints: Endpoints) -> None:
    async with endpoints.connect("/close") as websocket:
        assert await code_of(websocket) == 4321
        assert websocket.close_reason == "enough"


@pytest.mark.parametrize(
    ("path", "status"), [("/refuse", 403), ("/nowhere", 403), ("/raise_before_accept", 500)]
)
async def test_a_handshake_is_refused(endpoints: Endpoints, path: str, status: int) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        await endpoints.connect(path)
    assert refused.value.response.status_code == status


async def test_a_handshake_is_refused_with_the_endpoints_response(endpoints: Endpoints) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        await endpoints.connect("/deny")
    response = refused.value.response
    assert (response.status_code, response.body) == (418, b"short and stout")
    assert response.headers["x-why"] == "teapot"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/raise_after_accept", 1011),
        ("/return_after_accept", 1000),
        ("/cancel", 1011),
        ("/close_with_invalid_code", 1011),
    ],
)
async def test_the_close_code_when_an_endpoint_ends(
    endpoints: Endpoints, ws: str | None, path: str, code: int
) -> None:
    """uvicorn's protocol aborts the connection without a close frame."""
    async with endpoints.connect(path) as websocket:
        assert await code_of(websocket) == (code if ws is None else CloseCode.ABNORMAL)


async def test_an_endpoint_cannot_inject_a_header(endpoints: Endpoints) -> None:
    with pytest.raises(websockets.InvalidHandshake) as refused:
        await endpoints.connect("/inject_header")
    if isinstance(refused.value, websockets.InvalidStatus):
        assert refused.value.response.status_code == 500
        assert "set-cookie" not in refused.value.response.headers


async def test_two_tasks_may_receive(endpoints: Endpoints) -> None:
    async with endpoints.connect("/receive_twice") as websocket:
        await websocket.send("one")
        websocket.transport.abort()
        await until(lambda: len(endpoints.seen) == 2)
    assert sorted(endpoints.seen) == ["websocket.disconnect", "websocket.receive"]


async def test_the_first_of_two_close_frames_counts(endpoints: Endpoints) -> None:
    async with endpoints.connect("/echo", subprotocols=["two"]) as websocket:
        websocket.transport.write(b"".join(masked(8, code.to_bytes(2)) for code in (1000, 4999)))
        await websocket.wait_closed()
    await until(lambda: endpoints.seen == [1000])


class TestOnOurs:
    """Cases in which uvicorn's protocol fails."""

    @pytest.fixture
    def ws(self) -> None:
        return None

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(
            update={"ping_interval_seconds": 0.2, "ping_timeout_seconds": 1.0}
        )

    async def test_a_long_reason_is_truncated_between_characters(
        self, endpoints: Endpoints
    ) -> None:
        async with endpoints.connect("/close_with_long_reason") as websocket:
            assert await code_of(websocket) == 4000
            assert websocket.close_reason == "x" + "\N{SNOWMAN}" * 40

    async def test_a_slow_endpoint_does_not_cause_a_ping_timeout(
        self, endpoints: Endpoints
    ) -> None:
        """While a message waits for the endpoint, the pongs behind it are not read."""
        async with endpoints.connect("/receive_slowly") as websocket:
            for text in ("first", "second", "third"):
                await websocket.send(text)
            assert await code_of(websocket) == 4321


async def test_a_client_that_does_not_read_blocks_the_endpoint(endpoints: Endpoints) -> None:
    async with endpoints.connect("/send_endlessly", max_size=None, max_queue=1) as websocket:
        websocket.transport.pause_reading()
        await until(lambda: len(endpoints.seen) > 0)
        sent = -1
        while sent != len(endpoints.seen):
            sent = len(endpoints.seen)
            await asyncio.sleep(0.3)
        assert sent * LARGE < 64 * LARGE
        websocket.transport.abort()
        await until(lambda: endpoints.seen[-1] == "gone")


async def test_the_scope_is_the_same(settings: Settings) -> None:
    """On both protocol classes, except for our extension."""
    scopes: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            scopes.append(dict(scope))
            assert (await receive())["type"] == "websocket.connect"
            await send({"type": "websocket.accept"})

    for ws in (None, "websockets-sansio"):
        async with serve(settings, app, ws=ws, root_path="/r%20oot") as (_, address):
            headers = {"X-Odd": "caf\N{LATIN SMALL LETTER E WITH ACUTE}"}
            async with websockets.connect(
                f"ws://{address}/s%20cope?a=%20b&c",
                additional_headers=headers,
                subprotocols=[Subprotocol("a")],
            ):
                pass
        offered = scopes[-1].pop("extensions")
        assert (offered.pop("bff.detachable", None) is not None) is (ws is None)
        assert offered == {"websocket.http.response": {}}
        for name in ("client", "server"):
            assert scopes[-1].pop(name)[0] == "127.0.0.1"
        own = (b"sec-websocket-key", b"host")
        scopes[-1]["headers"] = [one for one in scopes[-1]["headers"] if one[0] not in own]
    assert scopes[0] == scopes[1]
