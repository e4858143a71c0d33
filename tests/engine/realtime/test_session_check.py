"""Which sessions of the connections are kept alive, and whose connections are closed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest
from bff.auth.caller import Caller
from bff.auth.revocations import ENDED
from bff.auth.session_key import SessionKey
from bff.auth.sessions import SessionStore
from bff.connections.close_codes import CloseCode
from bff.connections.connection import Connection
from bff.realtime.handler_manager import HandlerManager
from bff.realtime.session_check import SessionCheck
from bff.testing import until

from tests.engine.doubles import RecordingTransport


class Client:
    """A connection of a session, or one with a token."""

    def __init__(self, sid: str | None, *, is_active: bool = False) -> None:
        session = None if sid is None else SessionKey(sid, "secret")
        self.caller = Caller("alice", "Alice", frozenset(), sid or "s", 0, session=session)
        self.transport = RecordingTransport()
        self.connection = Connection("i.x", "alice", self.transport, max_queue_bytes=1000)
        self.is_active = is_active


@dataclass
class Sessions:
    """A store that records what it is asked."""

    touch_seconds: float = 0.01
    ended: set[str] = field(default_factory=set)
    touched: list[list[str]] = field(default_factory=list)
    seen: list[list[str]] = field(default_factory=list)
    meanwhile: Callable[[], None] = lambda: None
    failures: int = 0

    async def touch(self, sids: Sequence[str]) -> list[bool]:
        self.touched.append(list(sids))
        self.meanwhile()
        if self.failures:
            self.failures -= 1
            raise ConnectionError("gone")
        return [sid not in self.ended for sid in sids]

    async def alive(self, sids: Sequence[str]) -> list[bool]:
        self.seen.append(list(sids))
        return [sid not in self.ended for sid in sids]


def check_of(clients: list[Client], sessions: Sessions) -> SessionCheck:
    return SessionCheck(cast(HandlerManager, clients), cast(SessionStore, sessions))


async def test_a_session_with_an_active_connection_is_touched_and_an_ended_one_is_closed() -> None:
    clients = [
        Client("busy", is_active=True),
        Client("busy"),
        Client("idle"),
        Client("ended", is_active=True),
        Client("ended"),
        Client("expired"),
        Client(None, is_active=True),
    ]
    sessions = Sessions(ended={"ended", "expired"})
    await check_of(clients, sessions).check()
    assert sessions.touched == [["busy", "ended"]]
    assert list(map(sorted, sessions.seen)) == [["expired", "idle"]]
    closed = [one.transport.closed for one in clients]
    gone = (CloseCode.SESSION_ENDED, ENDED)
    assert closed == [None, None, None, gone, gone, gone, None]
    await check_of(clients, sessions).check()
    assert sessions.touched[1] == [], "nothing has arrived since the first check"


@pytest.mark.parametrize("failures", [0, 1])
async def test_what_arrives_during_a_check_or_before_one_that_fails_counts_for_the_next(
    failures: int,
) -> None:
    first, second = clients = [Client("a", is_active=True), Client("b")]
    sessions = Sessions(failures=failures)

    def arrive() -> None:
        second.is_active = True
        sessions.meanwhile = lambda: None

    sessions.meanwhile = arrive
    check = check_of(clients, sessions)
    if failures:
        with pytest.raises(ConnectionError):
            await check.check()
    else:
        await check.check()
    await check.check()
    assert sessions.touched == [["a"], ["a", "b"] if failures else ["b"]]
    assert first.transport.closed is second.transport.closed is None


async def test_each_of_many_sessions_is_checked_once() -> None:
    clients = [Client(f"{number}", is_active=bool(number % 2)) for number in range(1100)]
    sessions = Sessions(ended={"1099"})
    await check_of(clients, sessions).check()
    asked = [sid for batch in (*sessions.touched, *sessions.seen) for sid in batch]
    assert sorted(map(int, asked)) == list(range(1100))
    pairs = zip(sessions.touched, sessions.seen, strict=True)
    assert [len(touched) + len(seen) for touched, seen in pairs] == [500, 500, 100]
    assert [one.transport.closed is None for one in clients] == [True] * 1099 + [False]


async def test_checks_go_on_after_redis_was_away(caplog: pytest.LogCaptureFixture) -> None:
    sessions = Sessions(failures=1)
    task = asyncio.create_task(check_of([Client("a", is_active=True)], sessions).run())
    await until(lambda: len(sessions.touched) > 2)
    task.cancel()
    assert [one.levelno for one in caplog.records] == [logging.WARNING]


async def test_a_check_costs_redis_nothing_before_its_time() -> None:
    sessions = Sessions(touch_seconds=3600)
    task = asyncio.create_task(check_of([Client("a", is_active=True)], sessions).run())
    for _ in range(10):
        await asyncio.sleep(0)
    assert sessions.touched == []
    task.cancel()
