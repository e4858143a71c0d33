"""A drained connection: its requests are answered, later ones are refused."""

from __future__ import annotations

import asyncio

import pytest
from bff.connections.close_codes import CloseCode
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings
from bff.testing import run

from tests.engine.echo import create_app


def request(trace_id: str, method: str) -> dict[str, object]:
    call = {"service": "work", "method": method, "params": {}, "trace_id": trace_id}
    return {"type": "request", "payload": call}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"drain_seconds": 10})


async def test_running_requests_are_answered_and_later_ones_refused(settings: Settings) -> None:
    realtime, release = RealtimeRouter(), asyncio.Event()

    @realtime.method("work.slow")
    async def slow() -> str:
        await release.wait()
        return "done"

    @realtime.method("work.quick")
    async def quick() -> str:
        return "done"

    async with run(create_app(settings, realtime)) as bff, bff.browser() as alice:
        await alice.send(request("before", "slow"))
        draining = asyncio.create_task(bff.engine.draining.drain())
        assert (await alice.receive())["type"] == "drain"
        assert (await alice.ask(request("crossed", "quick")))["result"] == "done"
        (handler,) = bff.engine.handlers
        while not handler._finishing:
            await asyncio.sleep(0.01)
        error = (await alice.ask(request("after", "quick")))["error"]
        assert (error["code"], error["outcome"]) == ("service_unavailable", "not_sent")
        assert error["retryable"]
        release.set()
        assert (await alice.answer("before"))["result"] == "done"
        assert await alice.closed() == CloseCode.DRAIN
        await draining


async def test_a_connection_without_requests_is_not_kept_until_the_end_of_the_drain_time(
    settings: Settings,
) -> None:
    settings = settings.model_copy(update={"drain_seconds": 60})
    async with run(create_app(settings)) as bff, bff.browser() as alice:
        async with asyncio.timeout(20):
            await bff.engine.draining.drain()
        assert await alice.closed() == CloseCode.DRAIN


async def test_a_request_that_never_ends_is_cut_off_after_the_grace_time(
    settings: Settings,
) -> None:
    settings = settings.model_copy(update={"drain_seconds": 0.5})
    realtime = RealtimeRouter()

    @realtime.method("work.endless")
    async def endless() -> None:
        await asyncio.Event().wait()

    async with run(create_app(settings, realtime)) as bff, bff.browser() as alice:
        await alice.send(request("endless", "endless"))
        async with asyncio.timeout(10):
            await bff.engine.draining.drain()
            assert await alice.closed() == CloseCode.DRAIN
