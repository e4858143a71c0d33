"""The stand-in service `orders`, called over the mesh."""

from __future__ import annotations

from typing import Any

import pytest

from bff import Code, Problem
from bff.testing import RunningBff

MINE = {"user_id": "alice"}
OTHER = {"user_id": "bob"}


async def test_placing_and_updating_an_order_sends_events(bff: RunningBff) -> None:
    mesh = bff.engine.mesh
    async with bff.browser("alice") as alice, bff.browser("bob") as bob:
        order = await mesh.request("orders", "place", {"item": "tea", "quantity": 2}, context=MINE)
        paid = {"order_id": order["order_id"], "status": "paid"}
        await mesh.request("orders", "update", paid, context=MINE)
        announced = [(await alice.event("order.updated"))["event"] for _ in range(2)]
        assert announced == [order, {**order, "status": "paid"}]
        assert bob.passed_over() == []


async def test_a_user_sees_only_their_own_orders(bff: RunningBff) -> None:
    mesh = bff.engine.mesh
    order = await mesh.request("orders", "place", {"item": "tea", "quantity": 2}, context=MINE)
    assert await mesh.request("orders", "list", {}, context=MINE) == {"orders": [order]}
    assert await mesh.request("orders", "list", {}, context=OTHER) == {"orders": []}


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("get", {"order_id": "1"}),
        ("update", {"order_id": "1", "status": "paid"}),
        ("place", {"item": "", "quantity": 1}),
    ],
)
async def test_orders_of_other_users_and_invalid_orders_are_refused(
    bff: RunningBff, method: str, params: dict[str, Any]
) -> None:
    mesh = bff.engine.mesh
    await mesh.request("orders", "place", {"item": "tea", "quantity": 2}, context=MINE)
    with pytest.raises(Problem) as refused:
        await mesh.request("orders", method, params, context=OTHER)
    assert refused.value.code is Code.INVALID_PARAMS
