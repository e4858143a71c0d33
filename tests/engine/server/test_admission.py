"""The limit of connections: who is refused, how, and what is counted and logged of it."""

from __future__ import annotations

import resource
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from bff.connections.transport import PEER_TIMEOUT
from bff.server import admission
from bff.server.admission import Admission, admission_of, connection_limit
from bff.server.flush_scheduler import scheduler_of
from bff.settings import Settings
from bff.telemetry.metrics import CONNECTIONS_REFUSED
from uvicorn import Config
from uvicorn.server import ServerState

from tests.engine.server.doubles import ManualLoop, PeerTransport
from tests.engine.server.test_deadlines import GET, Site
from tests.engine.server.test_handshake import request


def refused() -> float:
    return float(CONNECTIONS_REFUSED.labels("max_connections")._value.get())


class Crowded(Site):
    """A connection to a server that has so many connections of two that it may have."""

    def __init__(self, others: int) -> None:
        self.others = others
        super().__init__()

    def make_state(self) -> ServerState:
        state = ServerState()
        state.connections.update(object() for _ in range(self.others))  # type: ignore[misc]
        admission._admissions[state] = Admission(2)
        return state


@pytest.mark.parametrize(("others", "status"), [(1, 200), (2, 503), (65, 503)])
async def test_a_connection_beyond_the_limit_is_answered_503_and_closed(
    others: int, status: int
) -> None:
    before = refused()
    site = Crowded(others)
    await site.receives(GET)
    answer = site.transport.written
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert site.transport.is_lost is (status == 503)
    assert refused() - before == (status == 503)
    if status == 503:
        assert b"\r\nretry-after: 5\r\n" in answer
        assert b"\r\nconnection: close\r\n" in answer
        assert b"\r\nx-content-type-options: nosniff\r\n" in answer
        assert answer.endswith(b"\r\n\r\nToo many connections\n")
    assert site.bodies == ([b""] if status == 200 else [])


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
    site = Crowded(2 + 64)
    site.transport.is_stalled = True
    await site.settle()
    assert site.transport.written.startswith(b"HTTP/1.1 503 ")
    assert site.transport.written.endswith(b"\r\n\r\nToo many connections\n")
    assert site.transport.is_closing()
    assert refused() == before + 1
    assert site.protocol not in site.state.connections


async def test_a_websocket_beyond_the_limit_is_answered_503() -> None:
    before = refused()
    site = Crowded(2)
    await site.receives(request("GET /health/live HTTP/1.1"))
    assert site.transport.written.startswith(b"HTTP/1.1 503 ")
    assert site.transport.is_lost
    assert refused() == before + 1
    assert len(site.state.connections) == 2


async def test_a_spare_connection_has_two_seconds_for_its_head() -> None:
    site = Crowded(2)
    assert await site.lives_for(1.9)
    assert not await site.lives_for(0.1)


async def test_a_client_that_does_not_read_its_refusal_is_disconnected() -> None:
    site = Crowded(0)
    site.transport.is_stalled = True
    site.protocol._refuse(Admission(2))
    assert await site.lives_for(29)
    assert not await site.lives_for(1)


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


def test_each_server_has_its_own_limit_and_one_for_all_its_connections() -> None:
    config = admission.Config(lambda: None)
    config.max_connections = 7
    one, other = ServerState(), ServerState()
    assert admission_of(config, one) is admission_of(config, one)
    assert admission_of(config, one) is not admission_of(config, other)
    assert admission_of(config, one).limit == 7
    assert admission_of(Config(lambda: None), other).limit == 7, "it was made before"
    assert admission_of(Config(lambda: None), ServerState()).limit == sys.maxsize


def test_each_server_has_its_own_scheduler_with_its_own_limits() -> None:
    loop: Any = ManualLoop()
    state = ServerState()
    config = Config(lambda: None, ws_max_size=5, ws_ping_interval=1.5, ws_ping_timeout=2.5)
    made = scheduler_of(config, state, loop)
    assert scheduler_of(config, state, loop) is made
    assert (made.max_size, made.ping_interval, made.ping_timeout) == (5, 1.5, 2.5)
    assert made.connections is state.connections
    without = Config(lambda: None, ws_ping_interval=None, ws_ping_timeout=None)
    other = scheduler_of(without, ServerState(), loop)
    assert (other.ping_interval, other.ping_timeout) == (0, 0)


@pytest.mark.parametrize(
    ("files", "limit"),
    [(1200, 1000), (1201, 1000), (1199, 999), (201, 1), (100, 1), (resource.RLIM_INFINITY, 1000)],
)
def test_the_limit_leaves_room_for_other_files(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, files: int, limit: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    assert connection_limit(settings.model_copy(update={"max_connections": 1000})) == limit


@pytest.mark.skipif(sys.platform != "linux", reason="TCP_USER_TIMEOUT is Linux'")
@pytest.mark.parametrize("fails", [False, True])
async def test_an_application_sets_how_long_tcp_waits_for_its_peer(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    import socket

    site = Site()
    with socket.socket(socket.AF_UNIX if fails else socket.AF_INET) as raw:
        monkeypatch.setattr(PeerTransport, "get_extra_info", lambda *_: raw)
        site.may_answer.clear()
        await site.receives(GET)
        site.scope["extensions"][PEER_TIMEOUT](1.25)
        if not fails:
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1250
