"""What a connection may do from its opening to its end, what ends it, and what is left of it."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import time
import weakref
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from bff.auth.caller import Caller
from bff.auth.revocations import ENDED, SessionEnded
from bff.auth.session_key import SessionKey
from bff.connections.close_codes import CloseCode
from bff.connections.connection import Connection
from bff.errors import Code, Problem
from bff.realtime import connection_handler
from bff.realtime.connection_handler import ConnectionHandler
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings
from bff.testing import RunningBff, run, until
from redis.exceptions import RedisError

from tests.engine.doubles import RecordingTransport
from tests.engine.echo import create_app

NOW = int(time.time())
PING = '{"type":"ping"}'


def caller(user: str = "alice", *, seconds: int = 600, session: bool = False) -> Caller:
    key = SessionKey.new() if session else None
    return Caller(user, "Alice", frozenset(), "s-1", NOW + seconds, session=key)


def ping(trace_id: str) -> str:
    return json.dumps({"type": "ping", "payload": {"trace_id": trace_id}})


def sample(bff: RunningBff, name: str, **labels: str) -> float:
    return bff.engine.metrics.registry.get_sample_value(name, labels) or 0.0


class Timers:
    """The timers of the running loop, and a clock that stands still at `NOW`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._set: list[tuple[float, asyncio.TimerHandle, Callable[..., Any], Any]] = []
        self._loop = asyncio.get_running_loop()
        self._call_later = self._loop.call_later
        monkeypatch.setattr(self._loop, "call_later", self._record)
        clock = SimpleNamespace(time=lambda: float(NOW), monotonic=time.monotonic)
        monkeypatch.setattr(connection_handler, "time", clock)

    def _record(self, delay: float, callback: Any, *args: Any, **more: Any) -> asyncio.TimerHandle:
        timer = self._call_later(delay, callback, *args, **more)
        self._set.append((delay, timer, callback, args))
        return timer

    def closing(self, connection: Connection) -> dict[float, Callable[[], None]]:
        """The timers that close a connection, by their delay: call one to let its time come."""
        return {
            delay: partial(callback, *args)
            for delay, timer, callback, args in self._set
            if callback == connection.close and not timer.cancelled()
        }


@pytest.fixture
async def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    return Timers(monkeypatch)


# What ends it


@pytest.mark.parametrize(
    ("session", "seconds", "delay", "close"),
    [
        (False, 600, 625, (CloseCode.TOKEN_EXPIRED, "token expired")),
        (True, 600, 600, (CloseCode.SESSION_ENDED, ENDED)),
        (True, -5, 0, (CloseCode.SESSION_ENDED, ENDED)),
    ],
)
async def test_it_ends_some_time_after_its_token_and_at_once_with_its_session(
    bff: RunningBff,
    timers: Timers,
    session: bool,
    seconds: int,
    delay: float,
    close: tuple[int, str],
) -> None:
    transport = RecordingTransport()
    handler = bff.engine.handlers.open(transport, caller(seconds=seconds, session=session))
    ((found, expire),) = timers.closing(handler.connection).items()
    assert found == delay
    expire()
    assert transport.closed == close
    bff.engine.handlers.on_closed(handler, CloseCode.ABNORMAL)


async def test_a_fresh_token_replaces_the_time_of_its_end(bff: RunningBff, timers: Timers) -> None:
    transport = RecordingTransport()
    handler = bff.engine.handlers.open(transport, caller())
    await bff.engine.handlers.admit(handler, {})
    payload = {"token": bff.token("alice", lifetime=1800), "trace_id": "a"}
    handler.receive(json.dumps({"type": "authenticate", "payload": payload}))
    await until(lambda: transport.messages()[-1]["type"] == "response")
    fresh = transport.messages()[-1]["payload"]["result"]["expires_at"]
    assert fresh > NOW + 600
    assert list(timers.closing(handler.connection)) == [fresh - NOW + 25]
    bff.engine.handlers.on_closed(handler, CloseCode.ABNORMAL)
    assert not timers.closing(handler.connection), "the timer holds all that the connection held"


async def test_only_bad_frames_in_a_row_end_it(bff: RunningBff) -> None:
    transport = RecordingTransport()
    handler = bff.engine.handlers.open(transport, caller())
    await bff.engine.handlers.admit(handler, {})
    for frame in (*["nonsense"] * 9, PING, *["nonsense"] * 9):
        handler.receive(frame)
    assert transport.closed is None
    handler.receive("nonsense")
    assert transport.closed == (CloseCode.BAD_FRAME, "too many bad frames")
    bff.engine.handlers.on_closed(handler, CloseCode.BAD_FRAME)


# Its beginning


async def test_frames_that_come_before_the_hello_are_answered_after_it_in_their_order(
    bff: RunningBff,
) -> None:
    transport = RecordingTransport()
    handler = bff.engine.handlers.open(transport, caller())
    before = sample(bff, "bff_frames_in_total", type="ping")
    for trace_id in ("a", "b"):
        handler.receive(ping(trace_id))
    assert sample(bff, "bff_frames_in_total", type="ping") == before
    await bff.engine.handlers.admit(handler, {})
    handler.receive(ping("c"))
    hello, *answers = [one["payload"] for one in transport.messages()]
    assert hello["topic"] == "hello"
    assert [one["trace_id"] for one in answers] == ["a", "b", "c"]
    assert sample(bff, "bff_frames_in_total", type="ping") == before + 3
    bff.engine.handlers.on_closed(handler, CloseCode.ABNORMAL)


@pytest.mark.parametrize("environment", ["development", "production"])
async def test_the_hello_names_the_topics_in_development_only(
    settings: Settings, environment: str
) -> None:
    realtime = RealtimeRouter()

    @realtime.topic("prices.#")
    async def may_see_prices() -> bool:
        return True

    app = create_app(settings.model_copy(update={"environment": environment}), realtime)
    async with run(app) as bff, bff.browser() as browser:
        expected = ["prices.#"] if environment == "development" else None
        assert browser.hello.get("topics") == expected


async def test_frames_that_come_before_the_hello_take_no_more_than_a_queue(
    bff: RunningBff, settings: Settings
) -> None:
    transport = RecordingTransport()
    handler = bff.engine.handlers.open(transport, caller())
    for _ in range(settings.max_queue_bytes // settings.max_frame_bytes - 1):
        handler.receive("x" * settings.max_frame_bytes)
    assert transport.closed is None
    handler.receive("x" * settings.max_frame_bytes)
    handler.receive("x" * settings.max_frame_bytes)
    assert transport.closed == (CloseCode.TOO_MANY_REQUESTS, "")
    bff.engine.handlers.on_closed(handler, CloseCode.TOO_MANY_REQUESTS)


async def test_empty_frames_that_come_before_the_hello_are_limited_too(
    bff: RunningBff, settings: Settings
) -> None:
    transport = RecordingTransport()
    handler = bff.engine.handlers.open(transport, caller())
    for _ in range(100):
        handler.receive("")
    assert transport.closed is None, "a client may send its first requests early"
    for _ in range(settings.max_queue_bytes // 10):
        handler.receive("")
    assert transport.closed == (CloseCode.TOO_MANY_REQUESTS, "")
    bff.engine.handlers.on_closed(handler, CloseCode.TOO_MANY_REQUESTS)


async def test_administrators_see_where_it_comes_from(bff: RunningBff) -> None:
    handler = bff.engine.handlers.open(
        RecordingTransport(), caller(), address="192.0.2.1", user_agent="x" * 300
    )
    await bff.engine.handlers.admit(handler, {})
    (shown,) = await bff.engine.index.connections_of("alice")
    assert shown.connection_id == handler.connection.id
    assert (shown.address, shown.user_agent) == ("192.0.2.1", "x" * 200)
    assert shown.session_id == "s-1"
    assert NOW <= shown.connected_at <= time.time()
    bff.engine.handlers.on_closed(handler, CloseCode.ABNORMAL)


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (SessionEnded(), CloseCode.SESSION_ENDED),
        (Problem(Code.RATE_LIMITED), CloseCode.CONNECTION_LIMIT),
        (Problem(Code.RATE_LIMITED, retry_after_seconds=1), CloseCode.TOO_MANY_REQUESTS),
        (Problem(Code.CANCELLED), CloseCode.SERVER_ERROR),
        (RedisError("gone"), CloseCode.SERVER_ERROR),
        (ConnectionError("gone"), CloseCode.SERVER_ERROR),
        (TimeoutError("gone"), CloseCode.SERVER_ERROR),
    ],
    ids=repr,
)
async def test_if_it_is_refused_its_close_code_says_why_and_nothing_was_sent(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch, failure: Exception, code: CloseCode
) -> None:
    async def refuse(*_: Any, **__: Any) -> None:
        raise failure

    transport = RecordingTransport()
    handler = bff.engine.handlers.open(transport, caller())
    handler.receive(PING)
    monkeypatch.setattr(bff.engine.index, "register", refuse)
    await bff.engine.handlers.admit(handler, {})
    reason = failure.description if isinstance(failure, Problem) else "try again"
    assert transport.closed == (code, reason)
    assert transport.frames == []
    bff.engine.handlers.on_closed(handler, CloseCode.ABNORMAL)


# What is left of it


async def test_a_connection_that_closes_while_it_is_admitted_leaves_nothing(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entry in the index is written after the close."""
    index, registry = bff.engine.index, bff.engine.cluster.registry
    register, asked, proceed = index.register, asyncio.Event(), asyncio.Event()

    async def late(*args: Any, **more: Any) -> Any:
        asked.set()
        await proceed.wait()
        return await register(*args, **more)

    monkeypatch.setattr(index, "register", late)
    transport = RecordingTransport()
    handler = bff.engine.handlers.open(transport, caller())
    admission = asyncio.create_task(bff.engine.handlers.admit(handler, {}, ["news"]))
    await asked.wait()
    bff.engine.handlers.on_closed(handler, CloseCode.ABNORMAL)
    await index.remove_unregistered()
    proceed.set()
    await admission
    await index.remove_unregistered()
    entries = bff.engine.cluster.context.keys.connections("alice")
    assert not await bff.engine.redis.exists(entries)
    assert not registry.has_subscriber("news")
    assert transport.frames == []
    assert not bff.engine.cluster.subscriptions._streams.all.catching_up


async def test_a_closed_connection_is_forgotten_at_once_and_its_user_soon(bff: RunningBff) -> None:
    """Not when its token expires, hours later."""
    handlers = bff.engine.handlers
    opened, is_open = sample(bff, "bff_connections_opened_total"), sample(bff, "bff_connections")

    async def connect(user: str) -> weakref.ref[ConnectionHandler]:
        handler = handlers.open(RecordingTransport(), caller(user, seconds=7200))
        await handlers.admit(handler, {})
        assert sample(bff, "bff_connections") == is_open + 1
        assert list(handlers) == [handler]
        handlers.on_closed(handler, CloseCode.ABNORMAL)
        assert list(handlers) == []
        return weakref.ref(handler)

    async def is_forgotten(one: weakref.ref[ConnectionHandler]) -> bool:
        await bff.engine.index.remove_unregistered()
        gc.collect()
        return one() is None

    before = len(bff.engine.allowances)
    for number in range(8):
        await until(partial(is_forgotten, await connect(f"user-{number}")))
    assert len(bff.engine.allowances) <= before + 2, "those of users whose bucket is full"
    assert sample(bff, "bff_connections_opened_total") == opened + 8
    assert sample(bff, "bff_connections") == is_open


@pytest.mark.parametrize("recovered", [True, False])
async def test_streams_that_a_client_resumes_are_counted(bff: RunningBff, recovered: bool) -> None:
    async with bff.browser() as first:
        position = first.hello["positions"]["user"]
    if not recovered:
        position = "user/another/1"
    before = {one: sample(bff, "bff_recoveries_total", result=one) for one in ("recovered", "lost")}
    async with bff.browser(query=f"?since={position}") as again:
        assert again.hello["recovered"] == {"user": recovered}
    before["recovered" if recovered else "lost"] += 1
    assert before == {one: sample(bff, "bff_recoveries_total", result=one) for one in before}


@pytest.mark.parametrize("topics", [[], ["news"]])
async def test_a_connection_that_is_closed_while_it_is_admitted_is_not_told_as_refused(
    bff: RunningBff,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    topics: list[str],
) -> None:
    caplog.set_level(logging.INFO)
    subscriptions = bff.engine.cluster.subscriptions
    join = subscriptions.join

    async def join_and_end(connection: Connection, since: Any) -> Any:
        joined = await join(connection, since)
        connection.close(CloseCode.SESSION_ENDED, "ended")
        return joined

    monkeypatch.setattr(subscriptions, "join", join_and_end)
    handler = bff.engine.handlers.open(RecordingTransport(), caller())
    await bff.engine.handlers.admit(handler, {}, topics)
    bff.engine.handlers.on_closed(handler, CloseCode.ABNORMAL)
    lines = [vars(one) for one in caplog.records if "connection" in one.getMessage()]
    assert [line.get("code") for line in lines] == [CloseCode.SESSION_ENDED]
