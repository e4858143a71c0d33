"""Retained broadcasts come at each connect: the server cannot know whether they arrived before."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bff.settings import Settings
from bff.testing import Browser, RunningBff
from sqlalchemy.exc import OperationalError

KIB = 1024


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_queue_bytes": 256 * KIB})


async def broadcast(bff: RunningBff, event: dict[str, Any]) -> str:
    body = {
        "audience": "all",
        "topic": "news",
        "event": event,
        "expires_at": "2999-01-01T00:00:00Z",
    }
    async with bff.http("admin", ["admin"]) as http:
        response = await http.post("/admin/broadcasts", json=body)
    assert response.status_code == 201
    created: str = response.json()["id"]
    return created


def positions_of(browser: Browser) -> str:
    return "?since=" + ",".join(browser.hello["positions"].values())


async def test_a_connection_lost_after_the_hello_loses_no_retained_broadcast(
    bff: RunningBff,
) -> None:
    ids = [await broadcast(bff, {"n": number}) for number in range(2)]
    async with bff.browser("alice") as first:
        query = positions_of(first)
        first.websocket.transport.abort()
    async with bff.browser("alice", query=query) as second:
        assert second.hello["recovered"] == {"user": True, "all": True}
        await bff.engine.messenger.to_user("alice", "live", None)
        frames = [(await second.receive())["payload"] for _ in range(3)]
    assert [frame["event"]["broadcast_id"] for frame in frames[:2]] == ids
    assert [frame.get("id") for frame in frames[:2]] == [None, None]
    assert frames[2]["topic"] == "live"


@pytest.mark.parametrize(
    ("error", "has_traceback"),
    [(OperationalError("SELECT", {}, ConnectionError("refused")), False), (KeyError("bug"), True)],
    ids=["the database is unavailable", "a bug"],
)
async def test_clients_that_connect_without_the_database_get_them_at_the_next_connect(
    bff: RunningBff,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    has_traceback: bool,
) -> None:
    broadcast_id = await broadcast(bff, {})

    async def fail() -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(bff.engine.broadcasts._retained, "_load", fail)
        async with bff.browser("alice") as first:
            query = positions_of(first)
            await bff.engine.messenger.to_user("alice", "live", None)
            assert (await first.receive())["payload"]["topic"] == "live"
    (line,) = [one for one in caplog.records if one.message.startswith("could not load retained")]
    assert (line.exc_info is not None) == has_traceback
    async with bff.browser("alice", query=query) as second:
        assert (await second.event("news"))["event"]["broadcast_id"] == broadcast_id


async def test_a_client_that_resumes_does_not_wait_for_the_database(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bff.browser("alice") as first:
        query = positions_of(first)
    broadcast_id = await broadcast(bff, {})
    retained = bff.engine.broadcasts._retained
    load, is_back = retained._load, asyncio.Event()

    async def wait() -> Any:
        await is_back.wait()
        return await load()

    monkeypatch.setattr(retained, "_load", wait)
    async with bff.browser("alice", query=query) as alice:
        await alice.send({"type": "ping", "payload": {}})
        assert (await alice.receive())["type"] == "pong"
        await bff.engine.messenger.to_user("alice", "live", None)
        is_back.set()
        frames = [(await alice.receive())["payload"] for _ in range(3)]
    assert [frame["event"].get("broadcast_id") for frame in frames[:2]] == [broadcast_id] * 2
    assert ["id" in frame for frame in frames] == [False, True, True]
    assert frames[2]["topic"] == "live"


async def test_more_than_a_queue_can_hold_arrives_at_a_client_that_reads(
    bff: RunningBff, settings: Settings
) -> None:
    ids = [await broadcast(bff, {"text": "x" * 50 * KIB}) for _ in range(60)]
    async with bff.browser("alice", max_queue=1) as alice:
        await asyncio.sleep(0.2)  # the buffers of both kernels and of the client are full
        found = [(await alice.event("news"))["event"]["broadcast_id"] for _ in ids]
    assert found == ids
