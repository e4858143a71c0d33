"""The transports that send ASGI messages, before an ASGI server that a test controls."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from bff.connections import asgi_transport
from bff.connections.asgi_transport import WebSocketTransport
from bff.connections.close_codes import CloseCode
from bff.connections.event_stream_transport import EventStreamTransport
from bff.connections.frames import Frame
from bff.testing import until

LIMIT = 1000


class AsgiServer:
    """Takes a message when its peer reads."""

    def __init__(self) -> None:
        self.sent: list[MutableMapping[str, Any]] = []
        self.peer_reads = asyncio.Event()
        self.peer_reads.set()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        await asyncio.sleep(0)
        await self.peer_reads.wait()
        self.sent.append(message)


@pytest.fixture
def server() -> AsgiServer:
    return AsgiServer()


async def test_what_was_written_before_the_close_is_sent_before_it(server: AsgiServer) -> None:
    transport = WebSocketTransport(server.send)
    for text in (b"1", b"2", b"3"):
        assert transport.write(Frame(text), LIMIT)
    transport.close(1000, "bye")
    await transport.run()
    assert [message.get("text", message.get("reason")) for message in server.sent] == [
        *("1", "2", "3"),
        "bye",
    ]


async def test_a_peer_that_reads_nothing_does_not_hold_up_the_end(
    server: AsgiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi_transport, "_CLOSE_SECONDS", 0.05)
    server.peer_reads.clear()
    transport = WebSocketTransport(server.send)
    transport.write(Frame(b"1"), LIMIT)
    running = asyncio.create_task(transport.run())
    await asyncio.sleep(0)
    assert not running.done()
    transport.close(1000, "")
    async with asyncio.timeout(15):
        await running
        await transport.drained()
    assert server.sent == []


async def test_a_slow_consumer_gets_the_close_and_nothing_else(server: AsgiServer) -> None:
    transport = WebSocketTransport(server.send)
    assert transport.write(Frame(b"1" * LIMIT), LIMIT)
    assert not transport.write(Frame(b"2"), LIMIT)
    transport.close(CloseCode.SLOW_CONSUMER, "")
    await transport.run()
    assert [message["type"] for message in server.sent] == ["websocket.close"]


def event_stream(server: AsgiServer, *, seconds: float) -> EventStreamTransport:
    """`seconds`: how long a write may take."""
    return EventStreamTransport(
        server.send, [], refusals=(), ping_interval=seconds * 0.9, ping_timeout=seconds * 0.1
    )


async def test_a_peer_that_reads_nothing_ends_an_event_stream(server: AsgiServer) -> None:
    server.peer_reads.clear()
    transport = event_stream(server, seconds=0.05)
    transport.write(Frame(b"1"), LIMIT)
    running = asyncio.create_task(transport.run())
    await until(lambda: transport.close_with[0] == CloseCode.NO_PONG)
    server.peer_reads.set()
    await running


async def test_a_finished_write_does_not_end_an_event_stream(
    server: AsgiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is moved instead of waiting, so the result is the same on a slow machine."""
    transport = event_stream(server, seconds=100)
    transport.write(Frame(b"1"), LIMIT)
    running = asyncio.create_task(transport.run())
    await until(lambda: len(server.sent) == 2)
    await asyncio.sleep(0)
    now = transport._loop.time()
    monkeypatch.setattr(transport, "_loop", Later(transport._loop, now + 1000))
    transport._check_write()
    transport.close(1000, "")
    await running
    assert transport.close_with == (1000, "")


class Later:
    """The event loop at a later time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        self._loop, self._now = loop, now

    def time(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Any) -> asyncio.TimerHandle:
        return self._loop.call_at(when, callback)
