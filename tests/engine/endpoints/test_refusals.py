"""A refused request is logged: why, from where, and whose it was."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from bff.auth.revocations import SessionEnded
from bff.connections.close_codes import CloseCode
from bff.endpoints.dependencies import CurrentCaller
from bff.errors import Code, Problem
from bff.problems import SocketRefused
from bff.settings import Settings
from bff.testing import RunningBff
from starlette.requests import HTTPConnection
from websockets.exceptions import InvalidStatus


@pytest.fixture(autouse=True)
def info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "bff")


def refusals(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str | None, str]]:
    lines = [vars(one) for one in caplog.records if one.message == "request refused"]
    assert all(line["reason"] for line in lines)
    return [(line["code"], line["user"], line["address"]) for line in lines]


async def test_a_request_without_a_valid_token(
    bff: RunningBff, caplog: pytest.LogCaptureFixture
) -> None:
    async with bff.http() as http:
        answer = await http.post("/rpc/echo/say", headers={"Authorization": "Bearer x"})
    assert answer.status_code == 401
    assert refusals(caplog) == [("unauthenticated", None, "127.0.0.1")]


async def test_a_request_without_the_scope(
    bff: RunningBff, caplog: pytest.LogCaptureFixture
) -> None:
    async with bff.http("alice") as http:
        assert (await http.get("/admin/stats")).status_code == 403
    assert refusals(caplog) == [("forbidden", "alice", "127.0.0.1")]


async def test_a_handshake_of_another_origin(
    bff: RunningBff, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(InvalidStatus):
        async with bff.browser(origin="http://evil.example"):
            pass
    assert refusals(caplog) == [("forbidden", None, "127.0.0.1")]


@pytest.mark.parametrize(
    ("fault", "meaning"),
    [
        (Problem(Code.UNAUTHENTICATED), CloseCode.NOT_AUTHENTICATED),
        (SessionEnded(), CloseCode.SESSION_ENDED),
        (Problem(Code.SERVICE_UNAVAILABLE), CloseCode.SERVER_ERROR),
        (ConnectionError("Redis"), CloseCode.SERVER_ERROR),
        (Problem(Code.FORBIDDEN), Code.FORBIDDEN),
        ("draining", Code.SERVICE_UNAVAILABLE),
        ("too many", Code.RATE_LIMITED),
    ],
    ids=str,
)
async def test_a_page_learns_by_the_close_code_why_a_handshake_was_refused(
    caplog: pytest.LogCaptureFixture, fault: Exception | str, meaning: CloseCode | Code
) -> None:
    """Browsers show no HTTP status. Before anything else the number of handshakes is limited."""
    asked: list[HTTPConnection] = []

    async def authenticate(connection: HTTPConnection) -> None:
        asked.append(connection)
        assert isinstance(fault, Exception)
        raise fault

    def limit(address: str) -> None:
        assert address == "192.0.2.7"
        if fault == "too many":
            raise Problem(Code.RATE_LIMITED)

    engine = SimpleNamespace(
        draining=SimpleNamespace(begun=fault == "draining"),
        handshake_limit=SimpleNamespace(check=limit),
        authenticator=SimpleNamespace(authenticate_socket=authenticate),
    )
    app = SimpleNamespace(state=SimpleNamespace(bff=engine))
    scope = {"type": "websocket", "app": app, "client": ("192.0.2.7", 1), "headers": []}
    with pytest.raises((SocketRefused, Problem)) as refusal:
        await CurrentCaller()(HTTPConnection(scope))
    refused: Any = refusal.value
    assert refused.code == meaning
    assert isinstance(refused, SocketRefused) is isinstance(meaning, CloseCode)
    assert len(asked) == int(isinstance(fault, Exception))
    logged = [] if not isinstance(fault, Problem) else [(str(fault.code), None, "192.0.2.7")]
    assert refusals(caplog) == logged


class TestTheRateLimit:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        limits = {"max_messages_per_minute": 60, "max_message_burst": 2}
        return settings.model_copy(update=limits)

    async def test_a_request_beyond_it(
        self, bff: RunningBff, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with bff.http("alice") as http:
            answers = await asyncio.gather(*(http.post("/rpc/echo/say") for _ in range(9)))
        refused = [answer for answer in answers if answer.status_code == 429]
        assert refused
        assert refusals(caplog) == [("rate_limited", "alice", "127.0.0.1")] * len(refused)
        value = bff.engine.metrics.registry.get_sample_value
        assert value("bff_http_rate_limited_total") == len(refused)
