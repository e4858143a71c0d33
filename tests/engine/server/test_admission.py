"""The limit of connections: who is refused, how, and what is counted and logged of it."""

from __future__ import annotations

import resource
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from bff.server import admission
from bff.server.admission import Admission, admission_of, connection_limit
from bff.server.flush_scheduler import scheduler_of
from bff.settings import Settings
from bff.telemetry.metrics import CONNECTIONS_REFUSED
from uvicorn import Config
from uvicorn.server import ServerState

from tests.engine.server.doubles import ManualLoop
from tests.engine.server.http_site import GET, Site
from tests.engine.server.test_handshake import request


def refused() -> float:
    return float(CONNECTIONS_REFUSED.labels("max_connections")._value.get())


class Crowded(Site):
    """A connection to a server that has so many connections of two that it may have."""

    def __init__(self, others: int, *, is_stalled: bool = False) -> None:
        self.others = others
        super().__init__(is_stalled=is_stalled)

    def make_state(self) -> ServerState:
        state = ServerState()
        state.connections.update(object() for _ in range(self.others))  # type: ignore[misc]
        admission._admissions[state] = Admission(2)
        return state


@pytest.mark.parametrize(
    "sent", [GET, request("GET /health/live HTTP/1.1")], ids=["GET", "upgrade"]
)
@pytest.mark.parametrize(("others", "refused_here"), [(1, False), (2, True), (65, True)])
async def test_a_connection_beyond_the_limit_is_answered_503_and_closed(
    sent: bytes, others: int, refused_here: bool
) -> None:
    before = refused()
    site = Crowded(others)
    await site.receives(sent)
    site.loop.advance(0.1)
    answer = site.transport.written
    assert answer.startswith(b"HTTP/1.1 503 ") is refused_here
    assert refused() - before == refused_here
    if refused_here:
        assert len(site.state.connections) == others
        assert b"\r\nretry-after: 5\r\n" in answer
        assert b"\r\nconnection: close\r\n" in answer
        assert b"\r\nx-content-type-options: nosniff\r\n" in answer
        assert answer.endswith(b"\r\n\r\nToo many connections\n")
        assert site.scope == {}, "the application was not called"
        assert site.transport.is_lost


@pytest.mark.parametrize("others", [2, 65])
async def test_a_probe_is_answered_beyond_the_limit_and_only_one(others: int) -> None:
    before = refused()
    site = Crowded(others)
    await site.receives(b"GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
    assert site.answers == 1
    assert b"\r\nconnection: close\r\n" in site.transport.written
    assert site.transport.is_lost
    assert refused() == before


async def test_beyond_the_spare_connections_nothing_is_read() -> None:
    before = refused()
    site = Crowded(2 + 64, is_stalled=True)
    assert site.transport.written.startswith(b"HTTP/1.1 503 ")
    assert site.transport.written.endswith(b"\r\n\r\nToo many connections\n")
    assert site.transport.is_closing()
    await site.receives(GET)  # TLS delivers input after a close
    assert site.scope == {}
    assert refused() == before + 1
    assert len(site.state.connections) == 2 + 64
    assert await site.lives_for(29)
    assert not await site.lives_for(1), "it does not read the answer"


async def test_a_spare_connection_has_two_seconds_for_its_head() -> None:
    site = Crowded(2)
    assert await site.lives_for(1.9)
    assert not await site.lives_for(0.1)


def test_refusals_are_logged_once_a_minute_with_their_number(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0
    monkeypatch.setattr(admission, "time", SimpleNamespace(monotonic=lambda: now))
    counted = Admission(7)
    for seconds in (0, 1, 58, 1, 60):
        now += seconds
        counted.refused()
    lines = [(line.__dict__["limit"], line.__dict__["refused"]) for line in caplog.records]
    assert lines == [(7, 1), (7, 3), (7, 1)]


def test_each_server_has_its_own_limits_for_all_its_connections() -> None:
    loop: Any = ManualLoop()
    config = admission.Config(
        lambda: None, ws_max_size=5, ws_ping_interval=1.5, ws_ping_timeout=2.5
    )
    config.max_connections = 7
    of_uvicorn = Config(lambda: None, ws_ping_interval=None, ws_ping_timeout=None)
    one, other = ServerState(), ServerState()
    assert admission_of(config, one) is admission_of(config, one)
    assert admission_of(config, one).limit == 7
    assert admission_of(of_uvicorn, other).limit == sys.maxsize
    scheduler = scheduler_of(config, one, loop)
    assert scheduler_of(config, one, loop) is scheduler
    assert scheduler.connections is one.connections
    assert (scheduler.max_size, scheduler.ping_interval, scheduler.ping_timeout) == (5, 1.5, 2.5)
    without = scheduler_of(of_uvicorn, other, loop)
    assert (without.ping_interval, without.ping_timeout) == (0, 0)


@pytest.mark.parametrize(
    ("files", "limit"),
    [(1200, 1000), (1201, 1000), (1199, 999), (201, 1), (100, 1), (resource.RLIM_INFINITY, 1000)],
)
def test_the_limit_leaves_room_for_other_files(
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    files: int,
    limit: int,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert connection_limit(settings.model_copy(update={"max_connections": 1000})) == limit
    told = [(line.__dict__["files"], line.__dict__["limit"]) for line in caplog.records]
    assert told == ([(files, limit)] if limit < 1000 else [])
