"""Limits on HTTP clients that are not signed in: pipelined requests, time and connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace

import httpx2
import pytest
import websockets
from bff.realtime import limits
from bff.server import admission, deadlines
from bff.server.http import HttpProtocol
from bff.settings import Settings
from bff.telemetry.metrics import CONNECTIONS_REFUSED
from bff.testing import RunningBff, until
from bff.testing.running import serve
from fastapi import FastAPI, Request

from tests.engine.server.test_protocol import read_until

GET = b"GET /number HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = 8 * 1024 * 1024


class Site:
    """An application on a real server, with raw connections to it."""

    def __init__(self) -> None:
        self.app = FastAPI()
        self.app.get("/number")(self.number)
        self.app.get("/large")(self.large)
        self.app.post("/size")(self.size)
        self.numbers = 0
        self.port = 0
        self.protocols: set[HttpProtocol] = set()

    async def number(self) -> str:
        self.numbers += 1
        return f"<{self.numbers}>"

    async def large(self) -> str:
        return "x" * LARGE

    async def size(self, request: Request) -> int:
        return len(await request.body())

    @asynccontextmanager
    async def connect(self, data: bytes, receive_buffer: int = 0) -> AsyncIterator[socket.socket]:
        """A connection that has sent this and reads nothing by itself."""
        with socket.socket() as raw:
            raw.setblocking(False)
            if receive_buffer:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(raw, ("127.0.0.1", self.port))
            await loop.sock_sendall(raw, data)
            yield raw

    def protocol(self) -> HttpProtocol:
        """The server's side of the only connection."""
        (protocol,) = self.protocols
        return protocol


@pytest.fixture
async def site(settings: Settings) -> AsyncIterator[Site]:
    made = Site()
    async with serve(settings, made.app) as (server, address):
        made.port = int(address.rpartition(":")[2])
        made.protocols = server.server_state.connections  # type: ignore[assignment]
        yield made


async def is_disconnected(raw: socket.socket) -> None:
    """Read until the server closes the connection."""
    with suppress(ConnectionResetError):
        await read_until(raw, b"never in the data")


def post(head: bytes, body: bytes = b"") -> bytes:
    return b"POST /size HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n" + body


class TestPipelinedRequests:
    async def test_few_are_held_and_all_are_answered_in_order(self, site: Site) -> None:
        count = 5000
        most = 0
        async with site.connect(b"") as raw:
            loop = asyncio.get_running_loop()
            sending = asyncio.create_task(loop.sock_sendall(raw, GET * count))
            data = b""
            while b"<%d>" % count not in data:
                data += await asyncio.wait_for(loop.sock_recv(raw, 65536), 15)
                most = max(most, len(site.protocol().pipeline))
            await sending
        found = [int(piece.partition(b">")[0]) for piece in data.split(b'"<')[1:]]
        assert found == list(range(1, count + 1))
        per_piece = 4096 // len(GET) + 1
        assert most <= 16 + per_piece

    async def test_a_client_that_does_not_read_costs_little(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(deadlines, "_ANSWER_SECONDS", 0.3)
        async with site.connect(b"", receive_buffer=4096) as raw:
            loop = asyncio.get_running_loop()
            sending = asyncio.create_task(loop.sock_sendall(raw, GET * 200_000))
            await until(lambda: bool(site.protocols))
            protocol = site.protocol()
            await until(lambda: site.numbers > 100)
            while protocol in site.protocols:
                assert len(protocol.pipeline) <= 250
                assert len(protocol._unparsed) < 1024 * 1024
                await asyncio.sleep(0)
            sending.cancel()
        assert site.numbers < 100_000

    @pytest.mark.parametrize("size", [1, 700, 4095, 4096, 4097, 100_000])
    async def test_bodies_between_them_are_intact(self, site: Site, size: int) -> None:
        request = post(b"Content-Length: %d" % size, b"x" * size)
        async with site.connect(request * 40 + post(b"Content-Length: 0")) as raw:
            data = await read_until(raw, b"\r\n\r\n0")
        assert data.count(b"\r\n\r\n%d" % size) == 40


class TestTheTimeOfABody:
    @pytest.fixture(autouse=True)
    def seconds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(deadlines, "_BODY_SECONDS", 0.2)

    @pytest.mark.parametrize("head", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
    async def test_a_body_that_never_comes(self, site: Site, head: bytes) -> None:
        async with site.connect(post(head)) as raw:
            await is_disconnected(raw)

    @pytest.mark.parametrize("head", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
    async def test_a_body_that_drips(self, site: Site, head: bytes) -> None:
        loop = asyncio.get_running_loop()
        async with site.connect(post(head)) as raw:
            reading = asyncio.create_task(is_disconnected(raw))
            while not reading.done():
                drop = b"1\r\nx\r\n" if b"chunked" in head else b"x"
                try:
                    await loop.sock_sendall(raw, drop)
                except (BrokenPipeError, ConnectionResetError):
                    break
                await asyncio.sleep(0.02)
            await reading

    async def test_a_body_that_stops_after_the_first_check(self, site: Site) -> None:
        async with site.connect(post(b"Content-Length: 100000") + b"x" * 20_000) as raw:
            await is_disconnected(raw)

    async def test_a_body_that_nobody_reads_any_more(self, site: Site) -> None:
        """It was answered, but the client does not send the rest."""
        head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx"
        async with site.connect(head) as raw:
            await is_disconnected(raw)


class TestAnAnswerThatIsNotRead:
    @pytest.fixture(autouse=True)
    def seconds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(deadlines, "_ANSWER_SECONDS", 1.0)

    @pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"])
    async def test_the_client_is_disconnected(self, site: Site, more: bytes) -> None:
        request = b"GET /large HTTP/1.1\r\nHost: x\r\n%s\r\n" % more
        async with site.connect(request, receive_buffer=4096):
            await until(lambda: bool(site.protocols))
            await until(lambda: not site.protocols)

    async def test_a_client_that_half_closes_is_disconnected(self, site: Site) -> None:
        request = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n"
        async with site.connect(request, receive_buffer=4096) as raw:
            await until(lambda: bool(site.protocols))
            await until(lambda: site.protocol().transport.get_write_buffer_size() > 0)
            raw.shutdown(socket.SHUT_WR)
            await until(lambda: not site.protocols)

    async def test_a_client_that_reads_slowly_gets_all(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It reads for longer than `_ANSWER_SECONDS`, and something in each of them."""
        monkeypatch.setattr(deadlines, "_ANSWER_SECONDS", 2.0)
        loop = asyncio.get_running_loop()
        data = 0
        async with site.connect(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n") as raw:
            while data < LARGE:
                await asyncio.sleep(0.025)
                chunk = await loop.sock_recv(raw, 65536)
                assert chunk
                data += len(chunk)


def refused() -> float:
    return float(CONNECTIONS_REFUSED.labels("max_connections")._value.get())


class TestTooManyConnections:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_connections": 2})

    async def test_they_get_503_and_probes_do_not(
        self, bff: RunningBff, caplog: pytest.LogCaptureFixture
    ) -> None:
        before = refused()
        async with bff.browser("alice"), bff.browser("bob"), bff.http() as client:
            for _ in range(3):
                response = await client.post("/rpc/echo/say")
                assert response.status_code == 503
                assert response.headers["retry-after"] == "5"
                assert response.headers["connection"] == "close"
            assert (await client.get("/health/live")).status_code == 200
            with pytest.raises(websockets.InvalidStatus) as no:
                async with bff.browser("carol"):
                    pass
            assert no.value.response.status_code == 503
        assert refused() == before + 4
        lines = [one for one in caplog.records if "MAX_CONNECTIONS" in one.message]
        assert [one.__dict__["limit"] for one in lines] == [2]

    async def test_a_connection_that_ends_makes_room(self, bff: RunningBff) -> None:
        async with bff.browser("alice"):
            async with bff.browser("bob"):
                pass
            await until(lambda: len(bff.server.server_state.connections) == 1)
            async with bff.browser("carol") as carol:
                assert (await carol.request("echo", "say"))["error"] is None

    async def test_beyond_the_spare_ones_nothing_is_read(
        self, bff: RunningBff, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with bff.browser("alice"), bff.browser("bob"):
            found = admission._admissions[bff.server.server_state]
            monkeypatch.setattr(found, "hard_limit", 2)
            reader, writer = await asyncio.open_connection(*bff.address.split(":"))
            answer = await asyncio.wait_for(reader.read(), 15)
            writer.close()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"retry-after: 5\r\n" in answer
            assert len(bff.server.server_state.connections) == 2


class TestHandshakes:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(
            update={"max_handshakes_per_second_per_address": 1, "max_connections_per_user": 100}
        )

    async def test_an_address_that_connects_too_often_gets_429(
        self, bff: RunningBff, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(limits, "time", SimpleNamespace(monotonic=lambda: 1e6))  # stands still

        async def connect(times: int) -> None:
            for _ in range(times):
                async with bff.browser():
                    pass

        await connect(10)
        with pytest.raises(websockets.InvalidStatus) as no:
            await connect(10)
        assert no.value.response.status_code == 429
        assert no.value.response.headers["Retry-After"] == "1"
        async with bff.event_stream({"Authorization": f"Bearer {bff.token('alice')}"}) as source:
            assert (await source.receive())["payload"]["code"] == 4007
        async with bff.http() as client:
            assert (await client.post("/rpc/echo/say")).status_code == 200
        elsewhere = {
            "Authorization": f"Bearer {bff.token('alice')}",
            "X-Forwarded-For": "203.0.113.7",
        }
        async with bff.handshake("", elsewhere) as browser:
            await browser.receive()


async def test_a_probe_is_answered_without_a_limit(bff: RunningBff) -> None:
    async with httpx2.AsyncClient(base_url=f"http://{bff.address}") as client:
        statuses = [(await client.get("/health/live")).status_code for _ in range(150)]
    assert set(statuses) == {200}
