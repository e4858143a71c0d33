"""The transports that send ASGI messages, before an ASGI server that a test controls."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Collection, MutableMapping
from typing import Any

import pytest
from bff.connections import asgi_transport
from bff.connections.asgi_transport import WebSocketTransport
from bff.connections.close_codes import CloseCode
from bff.connections.event_stream_transport import EventStreamTransport, last_event
from bff.connections.frames import Frame
from bff.connections.positions import Position
from bff.testing import until
from starlette.websockets import WebSocket

from tests.engine.server.doubles import ManualLoop

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


@pytest.fixture
async def running(server: AsgiServer) -> AsyncIterator[WebSocketTransport]:
    """A transport that has nothing to send, and waits."""
    transport = WebSocketTransport(server.send)
    running = asyncio.create_task(transport.run())
    await idle()
    yield transport
    transport.close(1000, "")
    await running


async def idle() -> None:
    """Let all tasks run until they wait for something."""
    for _ in range(10):
        await asyncio.sleep(0)


def texts(server: AsgiServer) -> list[str]:
    return [message["text"] for message in server.sent if message["type"] == "websocket.send"]


async def test_it_sends_what_comes_then_the_first_close_and_nothing_after_it(
    server: AsgiServer, running: WebSocketTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi_transport, "_CLOSE_SECONDS", 3600)
    for text in ("1", "2"):
        running.write(Frame(text.encode()), LIMIT)
        await idle()
        assert texts(server)[-1] == text
    running.close(4001, "drain")
    running.close(4504, "revoked")
    assert running.write(Frame(b"late"), LIMIT)
    assert running.buffered == 0
    await idle()
    assert server.sent[2:] == [{"type": "websocket.close", "code": 4001, "reason": "drain"}]


async def test_it_runs_until_it_is_closed_however_long_nothing_comes(
    server: AsgiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi_transport, "_CLOSE_SECONDS", 0)
    transport = WebSocketTransport(server.send)
    running = asyncio.create_task(transport.run())
    await asyncio.sleep(0.05)
    transport.write(Frame(b"late"), LIMIT)
    await idle()
    assert texts(server) == ["late"]
    running.cancel()
    await asyncio.wait({running})


async def test_what_the_peer_has_not_read_counts_and_holds_up_who_waits_for_it(
    server: AsgiServer, running: WebSocketTransport
) -> None:
    async with asyncio.timeout(15):
        await running.drained()
        assert running.write(Frame(b"x" * 2 * LIMIT), LIMIT), "nothing waits before it"
        await running.drained()
        server.peer_reads.clear()
        for size in (LIMIT - 10, 10):
            assert running.write(Frame(b"x" * size), LIMIT)
        assert running.buffered == LIMIT
        assert not running.write(Frame(b"y"), LIMIT)
        waiting = asyncio.create_task(running.drained())
        await idle()
        assert not waiting.done()
        server.peer_reads.set()
        await waiting
    assert running.buffered == 0
    assert [len(text) for text in texts(server)] == [2 * LIMIT, LIMIT - 10, 10]


@pytest.mark.parametrize("end", ["close", "close while the peer stalls", "gone", "cancelled"])
async def test_no_task_is_left_when_it_has_run(
    server: AsgiServer, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(asgi_transport, "_CLOSE_SECONDS", 0.01)
    others = asyncio.all_tasks()

    async def gone(_: object) -> None:
        raise OSError

    transport = WebSocketTransport(gone if end == "gone" else server.send)
    if "stalls" in end:
        server.peer_reads.clear()
    running = asyncio.create_task(transport.run())
    transport.write(Frame(b"1"), LIMIT)
    if end.startswith("close"):
        transport.close(1000, "")
    elif end == "cancelled":
        await idle()
        running.cancel()
    await asyncio.wait({running})
    assert running.cancelled() is (end == "cancelled")
    await idle()
    assert asyncio.all_tasks() == others
    await transport.drained()


@pytest.mark.parametrize(
    ("offered", "chosen"), [([], None), (["other"], None), (["other", "bff.v1"], "bff.v1")]
)
async def test_a_handshake_is_accepted_with_our_subprotocol_if_it_is_offered(
    server: AsgiServer, offered: list[str], chosen: str | None
) -> None:
    async def receive() -> MutableMapping[str, Any]:
        return {"type": "websocket.connect"}

    scope = {"type": "websocket", "subprotocols": offered}
    await asgi_transport.accept(WebSocket(scope, receive, server.send))
    assert server.sent == [{"type": "websocket.accept", "subprotocol": chosen, "headers": []}]


HEADERS = [(b"content-type", b"text/event-stream")]


def event_stream(
    server: AsgiServer, *, seconds: float, refusals: Collection[int] = ()
) -> EventStreamTransport:
    """`seconds`: how long a write may take."""
    return EventStreamTransport(
        server.send,
        HEADERS,
        refusals=refusals,
        ping_interval=seconds * 0.9,
        ping_timeout=seconds * 0.1,
    )


def body(server: AsgiServer) -> bytes:
    """What was sent after the head, of which there is one."""
    start, *rest = server.sent
    assert start == {"type": "http.response.start", "status": 200, "headers": HEADERS}
    assert all(part["type"] == "http.response.body" for part in rest)
    return b"".join(part["body"] for part in rest)


def retry_seconds(text: bytes) -> float:
    """The only delay in a text."""
    (line,) = re.findall(rb"^retry: (\d+)$", text, re.MULTILINE)
    return int(line) / 1000


async def test_an_event_stream_is_a_delay_then_events_with_all_positions_then_the_close(
    server: AsgiServer,
) -> None:
    transport = event_stream(server, seconds=3600)
    assert not transport.started
    user, news = Position("abc", 1), Position("def", 7)
    transport.write(Frame(b'"plain"'), LIMIT)
    transport.write(Frame(b'"user"', {"user": user}), LIMIT)
    transport.write(Frame(b'"news"', {"topic:news": news}), LIMIT)
    transport.write(Frame(b'"drain"', retry_ms=1234), LIMIT)
    transport.close(CloseCode.DRAIN, "bye")
    await transport.run()
    first, *events = body(server).split(b"\n\n")
    assert 1 <= retry_seconds(first) <= 4
    assert events == [
        b'data: "plain"',
        b'id: user/abc/1\ndata: "user"',
        b'id: user/abc/1,topic:news/def/7\ndata: "news"',
        b'retry: 1234\ndata: "drain"',
        b'data: {"type":"close","payload":{"code":4001,"reason":"bye"}}',
        b"",
    ]
    assert [part["more_body"] for part in server.sent[1:]] == [True] * 4 + [False]
    assert transport.started
    assert transport.ended


@pytest.mark.parametrize(
    ("code", "stops", "later"),
    [
        (CloseCode.DRAIN, False, False),
        (CloseCode.SERVER_ERROR, False, True),
        (CloseCode.TOO_MANY_REQUESTS, False, True),
        (CloseCode.REVOKED, True, False),
        (CloseCode.NORMAL, True, False),
    ],
)
def test_the_last_event_says_whether_and_when_to_reconnect(
    code: CloseCode, stops: bool, later: bool
) -> None:
    text = last_event(code, "why")
    assert text.endswith(b'data: {"type":"close","payload":{"code":%d,"reason":"why"}}\n\n' % code)
    assert text.startswith(b"id: closed\n") is stops
    assert (b"retry: " in text) is later
    if later:
        assert 5 <= retry_seconds(text) <= 15


@pytest.mark.parametrize("started", [False, True])
async def test_a_refusal_sends_nothing_unless_the_stream_has_started(
    server: AsgiServer, started: bool
) -> None:
    """Then the caller can respond with a status."""
    transport = event_stream(server, seconds=3600, refusals=[CloseCode.REVOKED])
    async with asyncio.timeout(15):
        await transport.drained()
    if started:
        transport.write(Frame(b'"hello"'), LIMIT)
    transport.close(CloseCode.REVOKED, "")
    await transport.run()
    assert bool(server.sent) is transport.started is transport.ended is started
    if started:
        assert b"id: closed\n" in body(server)


async def test_a_close_that_is_no_refusal_is_sent_although_nothing_came_before_it(
    server: AsgiServer,
) -> None:
    transport = event_stream(server, seconds=3600, refusals=[CloseCode.REVOKED])
    transport.close(CloseCode.DRAIN, "")
    await transport.run()
    assert transport.started
    assert body(server).endswith(last_event(CloseCode.DRAIN, ""))


async def test_a_stream_without_events_is_kept_alive_by_comments_once_it_has_started(
    server: AsgiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = event_stream(server, seconds=3600)
    monkeypatch.setattr(transport, "_ping_interval", 0.005)
    running = asyncio.create_task(transport.run())
    await asyncio.sleep(0.05)
    assert server.sent == []
    transport.write(Frame(b'"hello"'), LIMIT)
    await until(lambda: len(server.sent) > 4)
    transport.close(CloseCode.DRAIN, "")
    await running
    assert b'"hello"\n\n:\n\n:\n\n' in body(server)
    assert transport.buffered == 0


async def test_a_peer_that_reads_nothing_ends_an_event_stream(server: AsgiServer) -> None:
    server.peer_reads.clear()
    transport = event_stream(server, seconds=0.05)
    transport.write(Frame(b"1"), LIMIT)
    running = asyncio.create_task(transport.run())
    await until(lambda: transport.close_with[0] == CloseCode.NO_PONG)
    server.peer_reads.set()
    await running


@pytest.mark.parametrize("after", [0, 30])
async def test_a_write_may_take_the_interval_and_the_timeout_of_a_ping_together(
    server: AsgiServer, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    clock = ManualLoop()
    transport = EventStreamTransport(
        server.send, HEADERS, refusals=(), ping_interval=60, ping_timeout=20
    )
    monkeypatch.setattr(transport, "_loop", clock)
    running = asyncio.create_task(transport.run())
    await idle()
    clock.advance(after)
    server.peer_reads.clear()
    transport.write(Frame(b"1"), LIMIT)
    await idle()
    clock.advance(79)
    assert transport.close_with == (1000, "")
    clock.advance(1)
    assert transport.close_with == (CloseCode.NO_PONG, "")
    server.peer_reads.set()
    await running


async def test_nothing_waits_for_a_stream_that_has_ended(
    server: AsgiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualLoop()
    transport = event_stream(server, seconds=100)
    monkeypatch.setattr(transport, "_loop", clock)
    running = asyncio.create_task(transport.run())
    await idle()
    assert clock.timers == 1
    transport.close(1000, "")
    await running
    assert clock.timers == 0


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
