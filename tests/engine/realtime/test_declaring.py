"""Declaring events, and what mypy says about their payloads."""

from __future__ import annotations

import pytest
from bff.cluster.messenger import Messenger
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings
from bff.testing import run
from pydantic import BaseModel

from tests.engine.echo import create_app


class Order(BaseModel):
    number: int


class Other(BaseModel):
    text: str


async def mypy_checks(messenger: Messenger) -> None:
    """Not called. mypy must accept the first lines; in strict mode it reports an `ignore` of the
    last ones that it does not need."""
    realtime = RealtimeRouter()
    updated = realtime.emits("order.updated", Order)
    typing = realtime.emits("typing", str, stored=False)
    await messenger.to_user("alice", updated(Order(number=1)))
    await messenger.to_users(["alice"], updated(Order(number=1)), idempotency_key="k")
    await messenger.to_connection("a.b", updated(Order(number=1)))
    await messenger.to_all(typing("x"))
    await messenger.to_topic("orders", updated(Order(number=1)))
    await messenger.to_topic(updated(Order(number=1)))
    await messenger.to_user("alice", "order.updated", {"number": 1})
    await messenger.to_user("alice", updated(Other(text="x")))  # type: ignore[arg-type]
    await messenger.to_all(typing(7))  # type: ignore[arg-type]
    await messenger.to_user("alice", "order.updated")  # type: ignore[call-overload]
    await messenger.to_user("alice", updated)  # type: ignore[call-overload]
    await messenger.to_topic("orders")  # type: ignore[call-overload]


def test_a_name_is_declared_once_and_is_a_name() -> None:
    realtime, other = RealtimeRouter(), RealtimeRouter()
    realtime.emits("order.updated", str)
    with pytest.raises(ValueError, match="declared twice"):
        realtime.emits("order.updated", str)
    with pytest.raises(ValueError, match="not an event name"):
        realtime.emits("", str)
    other.emits("order.updated", str)
    with pytest.raises(ValueError, match="declared twice"):
        realtime.include(other)


async def test_presence_and_late_replies_need_no_declaration(settings: Settings) -> None:
    realtime = RealtimeRouter()

    @realtime.topic("presence.#")
    async def may_watch() -> bool:
        return True

    changed = {"require_declared_events": True, "lease_renewal_seconds": 0.1}
    async with (
        run(create_app(settings.model_copy(update=changed), realtime)) as bff,
        bff.browser("bob") as bob,
    ):
        await bob.subscribe("presence.alice")
        async with bff.browser("alice"):
            came = await bob.event("presence.alice")
            assert came["event"] == {"type": "user.online", "user_id": "alice"}
        late = {"trace_id": "t", "result": {"n": 1}, "error": None}
        await bff.engine.messenger.to_user("bob", "result", late)
        assert (await bob.event("result"))["event"] == late


async def test_an_event_of_a_router_that_the_app_has_is_declared(settings: Settings) -> None:
    realtime = RealtimeRouter()
    paid = realtime.emits("invoice.paid", str)

    @realtime.topic("rooms.*", payload=str)
    async def may_read() -> bool:
        return True

    strict = settings.model_copy(update={"require_declared_events": True})
    async with (
        run(create_app(strict, realtime)) as bff,
        bff.browser("bob") as bob,
        bff.http("carol", ["admin"]) as http,
    ):
        await bob.subscribe("rooms.kitchen")
        await bff.engine.messenger.to_user("bob", paid("now"))
        await bff.engine.messenger.to_topic("rooms.kitchen", "tea")
        assert (await bob.event("invoice.paid"))["event"] == "now"
        assert (await bob.event("rooms.kitchen"))["event"] == "tea"
        broadcast = {"audience": "all", "topic": "undeclared", "event": {"text": "hi"}}
        refused = await http.post("/admin/broadcasts", json=broadcast)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_params")
        assert "undeclared is not declared" in refused.json()["detail"]
        assert (await http.get("/admin/broadcasts")).json() == []
