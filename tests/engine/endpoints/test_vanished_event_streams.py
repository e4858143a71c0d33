"""A client of an event stream that vanishes without closing its connection is disconnected."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from bff.connections.close_codes import CloseCode
from bff.connections.event_stream_transport import EventStreamTransport
from bff.connections.frames import Frame
from bff.settings import Settings
from bff.testing import RunningBff, until

PING_SECONDS, TIMEOUT_SECONDS = 0.5, 1.0


@pytest.fixture
def settings(settings: Settings) -> Settings:
    update = {
        "ping_interval_seconds": PING_SECONDS,
        "ping_timeout_seconds": TIMEOUT_SECONDS,
        "max_queue_bytes": 64 * 1024 * 1024,
    }
    return settings.model_copy(update=update)


@asynccontextmanager
async def connected(bff: RunningBff) -> AsyncIterator[socket.socket]:
    """An event stream of alice on a socket with a small receive buffer, read up to the hello."""
    loop = asyncio.get_running_loop()
    host, _, port = bff.address.partition(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, (host, int(port)))
        fields = f"Host: x\r\nAuthorization: Bearer {bff.token('alice')}\r\n"
        await loop.sock_sendall(client, f"GET /events HTTP/1.1\r\n{fields}\r\n".encode())
        received = b""
        while b'"hello"' not in received:
            received += await loop.sock_recv(client, 4096)
        yield client


async def fill(bff: RunningBff) -> None:
    """Send until the kernel takes no more."""
    (connection,) = bff.engine.handlers._registry.by_user("alice")
    while not connection.transport.buffered and connection.close_code is None:
        await bff.engine.messenger.to_user("alice", "bulk", "x" * 60_000)


async def has_left(bff: RunningBff) -> bool:
    return not await bff.engine.index.connections_of("alice")


async def test_a_peer_that_reads_nothing_is_disconnected(bff: RunningBff) -> None:
    async with connected(bff):
        await fill(bff)
        await until(lambda: has_left(bff))
        assert not list(bff.engine.handlers)


async def test_a_peer_that_reads_the_comments_stays(bff: RunningBff) -> None:
    loop = asyncio.get_running_loop()
    async with connected(bff) as client:
        end = loop.time() + 2 * (PING_SECONDS + TIMEOUT_SECONDS)
        while loop.time() < end:
            assert await loop.sock_recv(client, 4096)
        assert not await has_left(bff)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux only")
async def test_the_kernel_disconnects_a_peer_that_acknowledges_nothing(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that lost its power sends no more packets; `TCP_USER_TIMEOUT` limits the retries."""
    from bff.server.http import HttpProtocol

    protocols: list[HttpProtocol] = []
    set_timeout = HttpProtocol._set_peer_timeout

    def record(self: HttpProtocol, seconds: float) -> None:
        set_timeout(self, seconds)
        protocols.append(self)

    monkeypatch.setattr(HttpProtocol, "_set_peer_timeout", record)
    async with connected(bff):
        (protocol,) = protocols
        server = protocol.transport.get_extra_info("socket")
        timeout_ms = server.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert timeout_ms == 1000 * (PING_SECONDS + TIMEOUT_SECONDS)


class Server:
    """Takes the start and the first event of a response, then nothing until `accept`."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.accept = asyncio.Event()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if self.bodies:
            await self.accept.wait()
        if message["type"] == "http.response.body":
            self.bodies.append(message["body"])


@pytest.mark.parametrize("what", ["event", "comment"])
async def test_on_any_server_a_write_that_does_not_end_closes_the_stream(what: str) -> None:
    server = Server()
    transport = EventStreamTransport(
        server.send, [], refusals=(), ping_interval=0.05, ping_timeout=0.05
    )
    running = asyncio.create_task(transport.run())
    transport.write(Frame(b"{}"), 1 << 20)
    if what == "event":
        transport.write(Frame(b"{}"), 1 << 20)
    await until(lambda: transport.close_with[0] == CloseCode.NO_PONG)
    server.accept.set()
    await running


async def test_a_stream_whose_writes_end_stays_open() -> None:
    server = Server()
    server.accept.set()
    transport = EventStreamTransport(
        server.send, [], refusals=(), ping_interval=0.01, ping_timeout=0.01
    )
    running = asyncio.create_task(transport.run())
    transport.write(Frame(b"{}"), 1 << 20)
    await until(lambda: len(server.bodies) > 10)
    assert transport.close_with[0] == CloseCode.NORMAL
    transport.close(CloseCode.NORMAL, "")
    await running
