"""The example feature, by HTTP and by socket: copy this file together with the route."""

from __future__ import annotations

from tests.running import Bff


async def test_an_order_is_placed_listed_and_announced(bff: Bff) -> None:
    async with bff.browser("alice") as alice:
        placed = await alice.request("orders", "place", item="tea", quantity=2)
        assert placed["error"] is None
        event = await alice.event("order.updated")
        assert event["event"] == placed["result"]
        assert event["id"].startswith("user/")
        listed = await alice.request("orders", "list")
        assert listed["result"]["orders"] == [placed["result"]]


async def test_whoever_may_follows_the_latest_orders(bff: Bff) -> None:
    topics = {"topics": [{"topic": "orders.latest"}], "trace_id": "follow"}
    async with bff.browser("alice") as alice, bff.browser("bob") as bob:
        assert (await bob.ask({"type": "subscribe", "payload": topics}))["error"] is None
        await alice.request("orders", "place", item="tea", quantity=2)
        latest = await bob.event("orders.latest")
        assert latest["event"] == {"item": "tea", "status": "placed"}
        assert latest["id"].startswith("topic:orders.latest/")
    async with bff.browser("eve", scopes=()) as eve:
        refused = await eve.ask({"type": "subscribe", "payload": topics})
        assert refused["error"]["code"] == "forbidden"


async def test_orders_are_the_callers_own(bff: Bff) -> None:
    async with bff.http("alice") as alice, bff.http("bob") as bob:
        await alice.post("/orders", json={"item": "tea"})
        assert (await bob.get("/orders")).json() == {"orders": []}


async def test_an_order_can_be_shown_to_another_user(bff: Bff) -> None:
    async with bff.browser("alice") as alice, bff.browser("bob") as bob:
        order = (await alice.request("orders", "place", item="tea", quantity=1))["result"]
        shared = await alice.request("orders", "share", order_id=order["order_id"], with_user="bob")
        assert shared["result"] == {"connections": 1}
        assert (await bob.event("order.shared"))["event"] == {"by": "alice", "order": order}


async def test_the_scope_is_needed(bff: Bff) -> None:
    async with bff.browser("eve", scopes=()) as eve:
        assert (await eve.request("orders", "list"))["error"]["code"] == "forbidden"
    async with bff.http("eve", scopes=()) as http:
        assert (await http.get("/orders")).status_code == 403


async def test_rpc_is_the_same_over_http(bff: Bff) -> None:
    async with bff.http("alice") as http:
        placed = await http.post("/rpc/orders/place", json={"item": "tea", "quantity": 1})
        assert placed.json()["item"] == "tea"
        refused = await http.post("/rpc/orders/place", json={"item": "", "quantity": 1})
        assert refused.status_code == 422
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["code"] == "invalid_params"
        assert (await http.post("/rpc/orders/steal")).json()["code"] == "not_found"
