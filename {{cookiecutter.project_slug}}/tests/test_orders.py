"""Tests of the example feature. Copy this file together with `app/routes/orders.py`."""

from __future__ import annotations

from bff.testing import RunningBff

SCOPES = ["orders"]


async def test_an_order_is_placed_and_listed_and_sends_an_event(bff: RunningBff) -> None:
    async with bff.browser("alice", SCOPES) as alice:
        placed = await alice.request("orders", "place", item="tea", quantity=2)
        assert placed["error"] is None
        event = await alice.event("order.updated")
        assert event["event"] == placed["result"]
        assert event["id"].startswith("user/")
        listed = await alice.request("orders", "list")
        assert listed["result"]["orders"] == [placed["result"]]


async def test_subscribing_to_the_latest_orders_requires_the_scope(bff: RunningBff) -> None:
    async with bff.browser("alice", SCOPES) as alice, bff.browser("bob", SCOPES) as bob:
        assert (await bob.subscribe("orders.latest"))["error"] is None
        await alice.request("orders", "place", item="tea", quantity=2)
        latest = await bob.event("orders.latest")
        assert latest["event"] == {"item": "tea", "status": "placed"}
        assert latest["id"].startswith("topic:orders.latest/")
    async with bff.browser("eve") as eve:
        refused = await eve.subscribe("orders.latest")
        assert refused["error"]["code"] == "forbidden"


async def test_the_latest_orders_on_an_event_stream(bff: RunningBff) -> None:
    async with (
        bff.browser("alice", SCOPES) as alice,
        bff.events("bob", SCOPES, topics="orders.latest") as bob,
    ):
        await alice.request("orders", "place", item="tea", quantity=2)
        assert (await bob.event("orders.latest"))["event"] == {"item": "tea", "status": "placed"}


async def test_users_see_only_their_own_orders(bff: RunningBff) -> None:
    async with bff.http("alice", SCOPES) as alice, bff.http("bob", SCOPES) as bob:
        placed = await alice.post("/orders", json={"item": "tea"})
        assert placed.status_code == 201
        assert (await alice.get("/orders")).json() == {"orders": [placed.json()]}
        assert (await bob.get("/orders")).json() == {"orders": []}


async def test_an_order_is_shared_with_another_user(bff: RunningBff) -> None:
    async with bff.browser("alice", SCOPES) as alice, bff.browser("bob", SCOPES) as bob:
        order = (await alice.request("orders", "place", item="tea", quantity=1))["result"]
        shared = await alice.request("orders", "share", order_id=order["order_id"], with_user="bob")
        assert shared["result"] == {"connections": 1}
        assert (await bob.event("order.shared"))["event"] == {"by": "alice", "order": order}


async def test_the_scope_is_required(bff: RunningBff) -> None:
    async with bff.browser("eve") as eve:
        assert (await eve.request("orders", "list"))["error"]["code"] == "forbidden"
    async with bff.http("eve") as http:
        assert (await http.get("/orders")).status_code == 403


async def test_the_same_methods_over_http_rpc(bff: RunningBff) -> None:
    async with bff.http("alice", SCOPES) as http:
        placed = await http.post("/rpc/orders/place", json={"item": "tea", "quantity": 1})
        assert placed.json()["item"] == "tea"
        refused = await http.post("/rpc/orders/place", json={"item": "", "quantity": 1})
        assert refused.status_code == 422
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["code"] == "invalid_params"
        assert (await http.post("/rpc/orders/steal")).json()["code"] == "not_found"
