"""Endpoints that keep their sockets: on our server they find what they find on uvicorn's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import websockets
from bff.settings import Settings
from bff.testing import until
from bff.testing.running import serve
from fastapi import FastAPI, Response, WebSocket, WebSocketDisconnect
from websockets.typing import Subprotocol

from tests.engine.server.test_protocol import masked

LARGE = 1 << 20


@dataclass
class Endpoints:
    """An application with one endpoint for each thing that one may do, and what they have seen."""

    app: FastAPI = field(default_factory=FastAPI)
    address: str = ""
    seen: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        for endpoint in (
            self.echo,
            self.close,
            self.refuse,
            self.deny,
            self.raise_early,
            self.fail,
            self.leave,
            self.cancel,
            self.break_out,
            self.close_wrongly,
            self.close_at_length,
            self.share,
            self.ponder,
            self.pour,
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

    async def raise_early(self, websocket: WebSocket) -> None:
        raise RuntimeError("before it was accepted")

    async def fail(self, websocket: WebSocket) -> None:
        await websocket.accept()
        raise RuntimeError("after it was accepted")

    async def leave(self, websocket: WebSocket) -> None:
        await websocket.accept()

    async def cancel(self, websocket: WebSocket) -> None:
        await websocket.accept()
        raise asyncio.CancelledError

    async def break_out(self, websocket: WebSocket) -> None:
        await websocket.accept(headers=[(b"x", b"1\r\nset-cookie: evil=1")])

    async def close_wrongly(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close(1005)

    async def close_at_length(self, websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close(4000, "x" + "\N{SNOWMAN}" * 100)

    async def share(self, websocket: WebSocket) -> None:
        """Receive in two tasks at once."""
        await websocket.accept()
        received = await asyncio.gather(websocket.receive(), websocket.receive())
        self.seen.extend(message["type"] for message in received)

    async def ponder(self, websocket: WebSocket) -> None:
        """Be slow to take the first message."""
        await websocket.accept()
        await websocket.receive()
        await asyncio.sleep(1.5)
        await websocket.receive()
        await websocket.close(4321)

    async def pour(self, websocket: WebSocket) -> None:
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


async def test_messages_of_both_kinds_go_both_ways(endpoints: Endpoints) -> None:
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


async def test_many_messages_at_once_come_back_in_order(endpoints: Endpoints) -> None:
    async with endpoints.connect("/echo", subprotocols=["two"]) as websocket:
        for number in range(500):
            await websocket.send(str(number))
        assert [await websocket.recv() for _ in range(500)] == [str(n) for n in range(500)]


async def test_who_vanishes_is_seen_to_be_gone(endpoints: Endpoints) -> None:
    async with endpoints.connect("/echo", subprotocols=["two"]) as websocket:
        websocket.transport.abort()
        await until(lambda: len(endpoints.seen) == 1)
    assert endpoints.seen[0] in (1005, 1006)


async def test_an_endpoint_closes_with_a_code(endpoints: Endpoints) -> None:
    async with endpoints.connect("/close") as websocket:
        assert await code_of(websocket) == 4321
        assert websocket.close_reason == "enough"


@pytest.mark.parametrize(
    ("path", "status"), [("/refuse", 403), ("/nowhere", 403), ("/raise_early", 500)]
)
async def test_a_handshake_is_refused(endpoints: Endpoints, path: str, status: int) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        await endpoints.connect(path)
    assert refused.value.response.status_code == status


async def test_a_handshake_is_refused_in_the_endpoints_own_words(endpoints: Endpoints) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        await endpoints.connect("/deny")
    said = refused.value.response
    assert (said.status_code, said.body) == (418, b"short and stout")
    assert said.headers["x-why"] == "teapot"


@pytest.mark.parametrize(
    ("path", "code"),
    [("/fail", 1011), ("/leave", 1000), ("/cancel", 1011), ("/close_wrongly", 1011)],
)
async def test_an_endpoint_that_ends_says_so(
    endpoints: Endpoints, ws: str | None, path: str, code: int
) -> None:
    """uvicorn's own cuts the connection without a close frame."""
    async with endpoints.connect(path) as websocket:
        assert await code_of(websocket) == (code if ws is None else 1006)


async def test_a_header_of_an_endpoint_stays_in_its_line(endpoints: Endpoints) -> None:
    with pytest.raises(websockets.InvalidHandshake) as refused:
        await endpoints.connect("/break_out")
    if isinstance(refused.value, websockets.InvalidStatus):
        assert refused.value.response.status_code == 500
        assert "set-cookie" not in refused.value.response.headers


async def test_two_tasks_may_receive(endpoints: Endpoints) -> None:
    async with endpoints.connect("/share") as websocket:
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
    """Where uvicorn's own fails."""

    @pytest.fixture
    def ws(self) -> None:
        return None

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(
            update={"ping_interval_seconds": 0.2, "ping_timeout_seconds": 0.2}
        )

    async def test_a_reason_that_is_too_long_is_cut_between_characters(
        self, endpoints: Endpoints
    ) -> None:
        async with endpoints.connect("/close_at_length") as websocket:
            assert await code_of(websocket) == 4000
            assert websocket.close_reason == "x" + "\N{SNOWMAN}" * 40

    async def test_a_peer_is_not_to_blame_for_an_endpoint_that_is_slow(
        self, endpoints: Endpoints
    ) -> None:
        """While a message waits to be taken, nobody reads the pongs behind it."""
        async with endpoints.connect("/ponder") as websocket:
            for text in ("first", "second", "third"):
                await websocket.send(text)
            assert await code_of(websocket) == 4321


async def test_who_does_not_read_holds_the_endpoint_up(endpoints: Endpoints) -> None:
    async with endpoints.connect("/pour", max_size=None, max_queue=1) as websocket:
        websocket.transport.pause_reading()
        await until(lambda: len(endpoints.seen) > 0)
        poured = -1
        while poured != len(endpoints.seen):
            poured = len(endpoints.seen)
            await asyncio.sleep(0.3)
        assert poured * LARGE < 64 * LARGE
        websocket.transport.abort()
        await until(lambda: endpoints.seen[-1] == "gone")


async def test_what_an_application_is_told_of_the_request_is_the_same(settings: Settings) -> None:
    """On both servers, but for what ours offers."""
    told: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            told.append(dict(scope))
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
        offered = told[-1].pop("extensions")
        assert (offered.pop("bff.detachable", None) is not None) is (ws is None)
        assert offered == {"websocket.http.response": {}}
        for name in ("client", "server"):
            assert told[-1].pop(name)[0] == "127.0.0.1"
        own = (b"sec-websocket-key", b"host")
        told[-1]["headers"] = [one for one in told[-1]["headers"] if one[0] not in own]
    assert told[0] == told[1]
