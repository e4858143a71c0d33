"""A refused request is logged: why, from where, and whose it was."""

from __future__ import annotations

import asyncio
import logging

import pytest
from bff.settings import Settings
from bff.testing import RunningBff
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
