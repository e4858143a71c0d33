"""Other services of the mesh call the BFF's served methods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from bff.auth.caller import Caller
from bff.cluster.messenger import Messenger
from bff.errors import Code, Problem
from bff.mesh.client import MeshClient
from bff.mesh.connect import connect_mesh
from bff.mesh.messages import MeshRequest
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings
from bff.testing import RunningBff, run, until
from pydantic import BaseModel

from tests.engine.echo import create_app


class Greet(BaseModel):
    user_id: str


realtime = RealtimeRouter()


@realtime.mesh_method("greet")
async def greet(params: Greet, request: MeshRequest, messenger: Messenger, mesh: MeshClient) -> str:
    """A served method of the app."""
    sent = await messenger.to_user(params.user_id, "greeted", {"by": request.context["user_id"]})
    return f"{sent.id}"


@realtime.topic("prices.*")
async def prices(caller: Caller) -> bool:
    return True


@realtime.mesh_method("fail")
async def fail() -> None:
    raise RuntimeError("a password in here")


@pytest.fixture
async def bff(settings: Settings) -> AsyncIterator[RunningBff]:
    async with run(create_app(settings, realtime)) as running:
        yield running


@pytest.fixture
async def other(bff: RunningBff, settings: Settings) -> AsyncIterator[MeshClient]:
    """Another service's client, on the same mesh."""
    mesh = connect_mesh(settings.model_copy(update={"app_name": "other"}), broker=bff.engine.broker)
    await mesh.start()

    async def served() -> bool:
        try:
            await mesh.describe(settings.app_name)
        except Problem:
            return False
        return mesh.status.connected

    await until(served)
    yield mesh
    await mesh.stop()


async def test_send_to_users_reaches_all_connections_of_these_users(
    bff: RunningBff, other: MeshClient, settings: Settings
) -> None:
    params = {"user_ids": ["alice", "bob", "alice"], "topic": "news", "event": {"n": 1}}
    async with bff.browser("alice") as alice, bff.browser("bob") as bob:
        sent = await other.request(settings.app_name, "send_to_users", params)
        received = [await browser.event("news") for browser in (alice, bob)]
    assert [event["event"] for event in received] == [{"n": 1}, {"n": 1}]
    assert sent == {"ids": [event["id"] for event in received], "addressed": 2}


async def test_send_to_topic_reaches_its_subscribers(
    bff: RunningBff, other: MeshClient, settings: Settings
) -> None:
    async with bff.browser("alice") as alice:
        subscribe = {"topics": [{"topic": "prices.tea"}], "trace_id": "s"}
        assert (await alice.ask({"type": "subscribe", "payload": subscribe}))["error"] is None
        params = {"topic": "prices.tea", "event": {"price": 3}}
        sent = await other.request(settings.app_name, "send_to_topic", params)
        received = await alice.event("prices.tea")
    assert (received["event"], received["id"]) == ({"price": 3}, sent["id"])


async def test_broadcast_reaches_all_connections(
    bff: RunningBff, other: MeshClient, settings: Settings
) -> None:
    params = {"topic": "news", "event": {"n": 1}}
    async with bff.browser("alice") as alice, bff.browser("bob") as bob:
        sent = await other.request(settings.app_name, "broadcast", params)
        for browser in (alice, bob):
            assert [(await browser.event("news"))["id"]] == sent["ids"]


async def test_disconnect_users_closes_only_their_connections(
    bff: RunningBff, other: MeshClient, settings: Settings
) -> None:
    async with bff.browser("alice") as alice, bff.browser("bob") as bob:
        closed = await other.request(settings.app_name, "disconnect_users", {"user_ids": ["alice"]})
        assert closed == {"addressed": 1}
        assert await alice.closed() == 4504
        assert (await bob.request("echo", "say"))["error"] is None


async def test_presence_returns_connections(
    bff: RunningBff, other: MeshClient, settings: Settings
) -> None:
    async with bff.browser("alice") as alice:
        query = {"user_ids": ["alice", "bob"]}
        users = (await other.request(settings.app_name, "presence", query))["users"]
    (connection,) = users["alice"]
    assert connection["connection_id"] == alice.hello["session_id"]
    assert users["bob"] == []


async def test_a_served_method_of_the_app_gets_the_context(
    bff: RunningBff, other: MeshClient, settings: Settings
) -> None:
    async with bff.browser("alice") as alice:
        context = {"user_id": "service-7"}
        params = {"user_id": "alice"}
        sent = await other.request(settings.app_name, "greet", params, context=context)
        greeted = await alice.event("greeted")
    assert greeted == {"topic": "greeted", "event": {"by": "service-7"}, "id": sent}


async def test_invalid_parameters_are_described_and_failures_are_not(
    bff: RunningBff, other: MeshClient, settings: Settings
) -> None:
    invalid: list[tuple[str, dict[str, Any]]] = [
        ("send_to_users", {"user_ids": [], "topic": "t"}),
        ("send_to_users", {"user_ids": ["a\x00b"], "topic": "t"}),
        ("send_to_users", {"user_ids": ["a"] * 1001, "topic": "t"}),
        ("broadcast", {"topic": ""}),
        ("send_to_topic", {"topic": "no, topic"}),
        ("disconnect_users", {}),
    ]
    for method, params in invalid:
        with pytest.raises(Problem) as caught:
            await other.request(settings.app_name, method, params)
        assert caught.value.code is Code.INVALID_PARAMS, method
    with pytest.raises(Problem) as caught:
        await other.request(settings.app_name, "fail", {})
    assert caught.value.code is Code.SERVICE_ERROR
    assert "password" not in caught.value.description


async def test_a_redelivered_call_sends_once(
    bff: RunningBff, other: MeshClient, settings: Settings
) -> None:
    (service,) = bff.engine.mesh.services
    async with bff.browser("alice") as alice:
        request = MeshRequest(
            "send_to_users", {"user_ids": ["alice"], "topic": "n", "event": 1}, {}, "t", "c-1"
        )
        method = service._methods["send_to_users"]
        first, second = [await method.answer(request) for _ in range(2)]
        assert first == second
        await other.request(settings.app_name, "broadcast", {"topic": "fence", "event": None})
        assert (await alice.event("n"))["id"] == first.ids[0]
        await alice.event("fence")
        assert alice.passed_over() == []


async def test_browsers_cannot_call_served_methods(bff: RunningBff, settings: Settings) -> None:
    async with bff.browser("mallory", ["admin"]) as mallory:
        for method in ("broadcast", "disconnect_users", "nuropb_describe"):
            answer = await mallory.request(settings.app_name, method)
            assert answer["error"]["code"] == "not_found"


async def test_many_calls_at_once_are_each_answered_once(
    bff: RunningBff, other: MeshClient, settings: Settings
) -> None:
    async with bff.browser("alice") as alice:
        calls = [
            other.request(
                settings.app_name,
                "send_to_users",
                {"user_ids": ["alice"], "topic": "n", "event": number},
            )
            for number in range(200)
        ]
        sent = await asyncio.gather(*calls)
        received = [await alice.event("n") for _ in range(200)]
    assert sorted(event["event"] for event in received) == list(range(200))
    assert {one["ids"][0] for one in sent} == {event["id"] for event in received}
