"""A server that stops answers every request that reaches it, and refuses the others."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from bff.server.run import Server, _Workers, configuration
from bff.settings import Settings
from bff.testing import until
from fastapi import FastAPI

from tests.engine.server.test_protocol import read_until

POST = b"POST /word HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
CLIENTS = 8
SECONDS = 10


@asynccontextmanager
async def stopping(
    settings: Settings, last_request_seconds: float, sockets: list[socket.socket] | None = None
) -> AsyncIterator[Server]:
    """A server that listens on a port of its own, like `bff serve`, or on `sockets`, like one of
    its workers."""
    app = FastAPI()
    app.post("/word")(lambda: "word")
    config = configuration(settings, app, host="127.0.0.1", port=0)
    config.last_request_seconds = last_request_seconds
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets))
    await until(lambda: server.started)
    yield server
    server.should_exit = True
    await serving


def address_of(server: Server) -> Any:
    return server.servers[0].sockets[0].getsockname()


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[socket.socket]:
    """A connection that the server has accepted."""
    with socket.socket() as raw:
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, address_of(server))
        await until(lambda: bool(server.server_state.connections))
        yield raw


async def stop_listening(server: Server) -> None:
    server.should_exit = True
    await until(lambda: not server.servers[0].is_serving())


def post_until_refused(address: Any, outcomes: Counter[str]) -> None:
    """As a proxy does without kept connections: connect, send a POST, read the answer."""
    while True:
        with socket.socket() as raw:
            raw.settimeout(SECONDS)
            try:
                raw.connect(address)
            except ConnectionRefusedError:
                outcomes["refused"] += 1
                return
            try:
                raw.sendall(POST)
                outcomes["answered" if raw.recv(1000).startswith(b"HTTP/1.1 200") else "cut"] += 1
            except OSError as error:
                outcomes[type(error).__name__] += 1


@pytest.mark.skipif(sys.platform != "linux", reason="SO_ATTACH_FILTER is Linux'")
async def test_a_connect_is_refused_or_its_request_is_answered(settings: Settings) -> None:
    outcomes: Counter[str] = Counter()
    async with stopping(settings, 1) as server:
        arguments = address_of(server), outcomes
        threads = [
            threading.Thread(target=post_until_refused, args=arguments) for _ in "x" * CLIENTS
        ]
        for thread in threads:
            thread.start()
        await until(lambda: outcomes["answered"] > 10 * CLIENTS)
    for thread in threads:
        await asyncio.to_thread(thread.join)
    answered = outcomes.pop("answered")
    assert outcomes == {"refused": CLIENTS}, f"{answered} were answered"


@pytest.mark.parametrize("earlier", [0, 1], ids=["new", "kept"])
async def test_a_request_on_its_way_is_answered_and_ends_the_connection(
    settings: Settings, earlier: int
) -> None:
    async with stopping(settings, SECONDS) as server, connected(server) as raw:
        loop = asyncio.get_running_loop()
        for _ in range(earlier):
            await loop.sock_sendall(raw, POST)
            assert b"connection: close" not in await read_until(raw, b'"word"')
        await stop_listening(server)
        await loop.sock_sendall(raw, POST)
        answer = await read_until(raw, b'"word"')
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer
        assert await asyncio.wait_for(loop.sock_recv(raw, 1), SECONDS) == b""


@pytest.mark.parametrize("seconds", [0, 0.2], ids=["at once", "after its time"])
async def test_a_silent_connection_is_closed(settings: Settings, seconds: float) -> None:
    async with stopping(settings, seconds) as server, connected(server) as raw:
        await stop_listening(server)
        loop = asyncio.get_running_loop()
        assert await asyncio.wait_for(loop.sock_recv(raw, 1), SECONDS) == b""


async def test_without_a_time_for_last_requests_the_port_is_closed_at_once(
    settings: Settings,
) -> None:
    async with stopping(settings, 0) as server:
        shutdown = asyncio.create_task(server.shutdown())
        await asyncio.sleep(0)
        assert not server.servers[0].is_serving()
        await shutdown


async def test_a_worker_that_stops_leaves_the_port_to_the_others(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as shared, socket.socket() as raw:
        async with stopping(settings, 1, [shared.dup()]):
            pass
        raw.setblocking(False)
        connect = asyncio.get_running_loop().sock_connect(raw, shared.getsockname())
        await asyncio.wait_for(connect, SECONDS)


def test_the_parent_of_workers_stops_them_and_does_not_hold_the_port() -> None:
    stopped: list[int] = []
    worker: Any = SimpleNamespace(terminate=lambda: stopped.append(1))
    workers = _Workers.__new__(_Workers)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        workers.processes, workers.sockets = [worker, worker], [listener]
        workers.terminate_all()
        assert stopped == [1, 1]
        assert listener.fileno() == -1
