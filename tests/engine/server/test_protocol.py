"""The WebSocket protocol class: detached sockets, batched writes, closing."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import inspect
import os
import socket
import struct
from typing import Any

import pytest
import uvicorn
from bff.connections.close_codes import CloseCode
from bff.connections.connection import Connection
from bff.connections.frames import Frame
from bff.connections.messages import Event
from bff.connections.registry import ConnectionRegistry
from bff.server import protocol as protocol_module
from bff.server.http import SUPPORTED
from bff.server.protocol import WebSocketProtocol
from bff.settings import Settings
from bff.testing import RunningBff, until
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

PING = b"\x89\x00"
DIGEST = "18fdf324b11b"


def connection_of(bff: RunningBff, user_id: str = "alice") -> Connection:
    registry: ConnectionRegistry = bff.engine.handlers._registry
    (connection,) = registry.by_user(user_id)
    return connection


def protocol_of(connection: Connection) -> WebSocketProtocol:
    assert isinstance(connection.transport, WebSocketProtocol)
    return connection.transport


async def raw_handshake(
    bff: RunningBff, *, receive_buffer: int | None = None, early: bytes = b""
) -> socket.socket:
    """A TCP socket that has sent the upgrade request, followed by the `early` frames. It reads only
    what the test reads."""
    host, port = bff.address.split(":")
    raw = socket.socket()
    raw.setblocking(False)
    if receive_buffer:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(raw, (host, int(port)))
    key = base64.b64encode(os.urandom(16)).decode()
    lines = (
        "GET /ws HTTP/1.1",
        f"Host: {bff.address}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        f"Authorization: Bearer {bff.token('alice')}",
        "",
        "",
    )
    await loop.sock_sendall(raw, "\r\n".join(lines).encode() + early)
    return raw


async def read_until(raw: socket.socket, mark: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    async with asyncio.timeout(15):
        while mark not in data:
            chunk = await loop.sock_recv(raw, 65536)
            if not chunk:
                break
            data += chunk
    return data


def masked(opcode: int, payload: bytes) -> bytes:
    """A client frame of at most 125 bytes, with a mask of zeros."""
    return struct.pack("!BB4s", 0x80 | opcode, 0x80 | len(payload), bytes(4)) + payload


def test_uvicorns_http_protocol_is_the_one_that_was_checked() -> None:
    """If it fails: read uvicorn's changes, run the tests of this folder, then add the release to
    `SUPPORTED` and put the new digest here."""
    assert uvicorn.__version__.startswith(SUPPORTED), (
        f"uvicorn {uvicorn.__version__} is not in SUPPORTED of server/http.py: see bff/COUPLINGS.md"
    )
    source = inspect.getsource(HttpToolsProtocol)
    digest = hashlib.sha256(source.encode()).hexdigest()
    assert digest.startswith(DIGEST), (
        f"uvicorn's HttpToolsProtocol has changed ({digest[:12]}): see bff/COUPLINGS.md"
    )


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_a_frame_is_encoded_once_as_in_the_rfc(size: int) -> None:
    frame = Frame(b"x" * size)
    assert frame.wire is frame.wire
    header = {0: 2, 125: 2, 126: 4, 65535: 4, 65536: 10}[size]
    assert len(frame.wire) == header + size
    assert frame.wire[0] == 0x81


def tasks_of_sockets() -> list[str]:
    """The tasks of the server and of the engine that run now, by name of their coroutine."""
    folders = ("/bff/server/", "/bff/endpoints/", "/bff/realtime/", "/uvicorn/protocols/")
    found = (getattr(task.get_coro(), "cr_code", None) for task in asyncio.all_tasks())
    return sorted(
        code.co_qualname for code in found if code and any(f in code.co_filename for f in folders)
    )


async def test_an_idle_socket_has_no_task(bff: RunningBff) -> None:
    before = tasks_of_sockets()
    async with bff.browser("alice") as alice:
        await alice.request("echo", "say")
        assert tasks_of_sockets() == before


async def test_frames_of_one_turn_are_one_write_in_order(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bff.browser("alice") as alice:
        connection = connection_of(bff)
        protocol = protocol_of(connection)
        writes: list[bytes] = []
        transport = protocol.transport

        class Spy:
            def write(self, data: bytes) -> None:
                writes.append(data)
                transport.write(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

        monkeypatch.setattr(protocol, "transport", Spy())
        for number in range(20):
            connection.send(Event("n", number))
        received = [(await alice.event("n"))["event"] for _ in range(20)]
        monkeypatch.undo()
    assert received == list(range(20))
    assert len(writes) == 1


async def test_frames_sent_with_the_handshake_are_not_lost(bff: RunningBff) -> None:
    early, later = (
        b'{"type":"ping","payload":{"trace_id":"%s"}}' % n for n in (b"early", b"later")
    )
    raw = await raw_handshake(bff, early=masked(1, early) + masked(1, later)[:9])
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(raw, masked(1, later)[9:])
    data = await read_until(raw, b"later")
    assert data.index(b"hello") < data.index(b"early") < data.index(b"later")
    raw.close()


@pytest.mark.parametrize(
    ("early", "code"),
    [
        (masked(2, b"binary"), CloseCode.UNSUPPORTED_DATA),
        (masked(1, b"rubbish") * 10, CloseCode.BAD_FRAME),
    ],
    ids=["binary", "rubbish"],
)
async def test_frames_after_a_close_are_ignored(
    bff: RunningBff, early: bytes, code: CloseCode
) -> None:
    ping = b'{"type":"ping","payload":{"trace_id":"late"}}'
    raw = await raw_handshake(bff, early=early + masked(1, ping))
    await read_until(raw, struct.pack("!H", code))
    raw.close()
    await until(lambda: not len(bff.engine.handlers._registry))
    handled = bff.engine.metrics.registry.get_sample_value("bff_frames_in_total", {"type": "ping"})
    assert handled is None


async def test_a_client_that_half_closes_and_does_not_read_is_disconnected(bff: RunningBff) -> None:
    raw = await raw_handshake(bff, receive_buffer=4096)
    await until(lambda: bool(bff.engine.handlers._registry.by_user("alice")))
    connection = connection_of(bff)
    await until(lambda: connection._out is not None)
    while protocol_of(connection).transport.get_write_buffer_size() < 300_000:
        connection.send(Event("x", "0123456789" * 5000))
        await asyncio.sleep(0)
    raw.shutdown(socket.SHUT_WR)
    await until(lambda: not len(bff.engine.handlers._registry))
    raw.close()


async def test_invalid_utf8_and_a_close_frame_in_one_segment(bff: RunningBff) -> None:
    raw = await raw_handshake(bff)
    await read_until(raw, b"hello")
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(raw, masked(1, b"\xff\xfe") + masked(8, struct.pack("!H", 1000)))
    data = await read_until(raw, b"never")
    assert data.count(b"\x88") >= 1
    raw.close()
    await until(lambda: not len(bff.engine.handlers._registry))


@pytest.mark.parametrize("code", [CloseCode.DRAIN, CloseCode.REVOKED])
async def test_a_client_that_stopped_reading_does_not_delay_the_close(
    bff: RunningBff, code: CloseCode
) -> None:
    raw = await raw_handshake(bff, receive_buffer=4096)
    await until(lambda: bool(bff.engine.handlers._registry.by_user("alice")))
    connection = connection_of(bff)
    await until(lambda: connection._out is not None)
    large = Event("x", "0123456789" * 5000)
    while protocol_of(connection).transport.get_write_buffer_size() < 300_000:
        connection.send(large)
        await asyncio.sleep(0)
    connection.close(code)
    await until(lambda: not len(bff.engine.handlers._registry))
    raw.close()


async def test_a_slow_consumer_is_closed_and_other_clients_are_not(
    bff: RunningBff, settings: Settings
) -> None:
    raw = await raw_handshake(bff, receive_buffer=4096)
    async with bff.browser("bob") as bob:
        await until(lambda: bool(bff.engine.handlers._registry.by_user("alice")))
        connection = connection_of(bff)
        protocol = protocol_of(connection)
        large = Frame(Event("x", "0123456789" * 5000).encode())
        while connection.close_code is None:
            connection.send_frame(large)
            assert protocol.buffered <= settings.max_queue_bytes + 65536
            await asyncio.sleep(0)
        assert connection.close_code == CloseCode.SLOW_CONSUMER
        await until(lambda: not bff.engine.handlers._registry.by_user("alice"))
        assert (await bob.request("echo", "say"))["error"] is None
    raw.close()


class TestAQueueSmallerThanTheHello:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_queue_bytes": 1})

    async def test_the_handshake_is_answered_before_the_close(
        self, bff: RunningBff, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The answer waits for the hello, however long a busy machine takes for it."""
        monkeypatch.setattr(protocol_module, "_ACCEPT_DELAY_SECONDS", 3600)
        raw = await raw_handshake(bff)
        close = b"\x88\x02" + struct.pack("!H", CloseCode.SLOW_CONSUMER)
        head, _, frames = (await read_until(raw, close)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert frames == close
        raw.close()


class TestAUserWithTooManyConnections:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_connections_per_user": 1})

    async def test_frames_of_a_refused_connection_are_ignored(self, bff: RunningBff) -> None:
        async with bff.browser("alice"):
            ping = b'{"type":"ping","payload":{"trace_id":"x"}}'
            raw = await raw_handshake(bff, early=masked(1, ping))
            await read_until(raw, struct.pack("!H", CloseCode.CONNECTION_LIMIT))
            raw.close()
        metrics = bff.engine.metrics.registry
        assert metrics.get_sample_value("bff_frames_in_total", {"type": "ping"}) is None


class TestWithoutPongs:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(
            update={"ping_interval_seconds": 0.2, "ping_timeout_seconds": 0.2}
        )

    async def test_a_dead_client_is_disconnected(self, bff: RunningBff) -> None:
        raw = await raw_handshake(bff)
        data = await read_until(raw, struct.pack("!H", CloseCode.NO_PONG))
        assert struct.pack("!H", CloseCode.NO_PONG) in data
        await until(lambda: not len(bff.engine.handlers._registry))
        raw.close()


class TestWithFrequentPings:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(
            update={"ping_interval_seconds": 0.1, "ping_timeout_seconds": 30}
        )

    async def test_each_answered_ping_is_followed_by_another(self, bff: RunningBff) -> None:
        raw = await raw_handshake(bff)
        for _ in range(3):
            await read_until(raw, PING)
            await asyncio.get_running_loop().sock_sendall(raw, masked(0xA, b""))
        await read_until(raw, PING)
        raw.close()

    async def test_a_closed_socket_is_pinged_no_more(self, bff: RunningBff) -> None:
        async with bff.browser("alice"):
            protocol = protocol_of(connection_of(bff))
            timer = protocol._ping_timer
            assert timer is not None
            assert not timer.cancelled()
        await until(lambda: not len(bff.engine.handlers._registry))
        assert protocol._ping_timer is None


async def test_a_frame_handler_that_raises_closes_with_1011(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The client learns that the server failed; other sockets are not affected."""

    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    async with bff.browser("bob") as bob, bff.browser("alice") as alice:
        handler = next(one for one in bff.engine.handlers if one.caller.user_id == "alice")
        monkeypatch.setattr(handler, "_handle", fail)
        await alice.send({"type": "ping", "payload": {"trace_id": "x"}})
        assert await alice.closed() == CloseCode.INTERNAL_ERROR
        assert "WebSocket message handler failed, connection closed" in caplog.text
        await bob.ask({"type": "ping", "payload": {"trace_id": "y"}})
    await until(lambda: not len(bff.engine.handlers._registry))


async def test_a_large_broadcast_yields_to_other_tasks(bff: RunningBff) -> None:
    """Sockets are flushed in batches, one batch per turn of the loop."""
    turns = 0
    async with bff.browser("alice"):
        scheduler = protocol_of(connection_of(bff))._scheduler

        class Sink:
            outgoing = None
            flushed_in: int | None = None

            def flush(self) -> None:
                self.flushed_in = turns

        sinks = [Sink() for _ in range(2000)]
        for sink in sinks:
            scheduler.schedule(sink)  # type: ignore[arg-type]
        while sinks[-1].flushed_in is None:
            turns += 1
            await asyncio.sleep(0)
    assert sinks[0].flushed_in < sinks[-1].flushed_in  # type: ignore[operator]
