"""Broadcasts over the complete BFF and real WebSockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bff.settings import Settings
from bff.testing import RunningBff, run

from tests.engine.echo import create_app


@pytest.fixture
async def bff(settings: Settings) -> AsyncIterator[RunningBff]:
    """With PostgreSQL if TEST_DATABASE_URL is set."""
    async with run(create_app(settings)) as running:
        yield running


def soon() -> str:
    return (datetime.now(UTC) + timedelta(hours=1)).isoformat()


async def post(bff: RunningBff, **broadcast: Any) -> dict[str, Any]:
    async with bff.http("carol", ["admin"]) as admin:
        response = await admin.post("/admin/broadcasts", json={"topic": "notice"} | broadcast)
        assert response.status_code == 201, response.text
        stored: dict[str, Any] = (await admin.get(response.headers["location"])).json()
        assert stored == response.json()
        return stored


async def test_a_broadcast_reaches_current_and_later_connections(bff: RunningBff) -> None:
    async with bff.browser("alice") as alice:
        stored = await post(bff, audience="all", event={"text": "hi"}, expires_at=soon())
        live = await alice.event("notice")
    assert live["event"] == {"text": "hi", "broadcast_id": stored["id"]}
    assert [live["id"]] == stored["message_ids"]
    assert stored["addressed"] == 1
    async with bff.browser("bob") as bob:
        assert (await bob.event("notice"))["event"] == live["event"]


async def test_a_broadcast_to_users_reaches_only_them(bff: RunningBff) -> None:
    async with bff.browser("alice") as alice, bff.browser("bob") as bob:
        stored = await post(bff, audience="users", user_ids=["alice"], event={"n": 1})
        await post(bff, audience="all", event={"n": 2})
        assert (await alice.event("notice"))["event"]["n"] == 1
        assert (await bob.event("notice"))["event"]["n"] == 2
    assert stored["addressed"] == 1


async def test_a_broadcast_to_a_connection_reaches_only_that_connection(
    bff: RunningBff,
) -> None:
    async with bff.browser("alice") as first, bff.browser("alice") as second:
        connection_id = first.hello["session_id"]
        await post(bff, audience="connection", connection_id=connection_id, event={"n": 1})
        await post(bff, audience="all", event={"n": 2})
        assert (await first.event("notice"))["event"]["n"] == 1
        assert (await second.event("notice"))["event"]["n"] == 2


async def test_connections_of_a_user_are_listed_and_closed(bff: RunningBff) -> None:
    async with (
        bff.http("carol", ["admin"]) as admin,
        bff.browser("alice") as alice,
        bff.browser("bob") as bob,
    ):
        (connection,) = (await admin.get("/admin/users/alice/connections")).json()
        assert connection["connection_id"] == alice.hello["session_id"]
        assert (await admin.get("/admin/stats")).json()["connections"] == 2
        response = await admin.delete("/admin/users/alice/connections")
        assert (response.status_code, response.json()) == (202, {"addressed": 1})
        assert await alice.closed() == 4504
        await post(bff, audience="all", event={})
        await bob.event("notice")


async def test_a_ticket_is_valid_once(bff: RunningBff) -> None:
    origin = {"Origin": bff.settings.allowed_origins[0]}
    async with bff.http("alice") as page:
        ticket = (await page.post("/auth/ticket", headers=origin)).json()["ticket"]
    async with bff.handshake(f"?ticket={ticket}", origin) as socket:
        hello = await socket.receive()
        assert hello["payload"]["event"]["user_id"] == "alice"
    async with bff.handshake(f"?ticket={ticket}", origin) as socket:
        assert await socket.closed() == 4500
