"""The example service answers over the mesh and announces what it changed."""

from __future__ import annotations

from typing import Any

import pytest

from app.development.orders_service import orders_service
from app.errors import Code, Problem
from app.mesh.events import EventRule, MeshEvent
from tests.mesh.conftest import StartClient
from tests.mesh.engines import Engine
from tests.waiting import until


@pytest.fixture
def amqp_url() -> str:
    return "memory://"


async def test_an_order_is_placed_updated_and_announced(
    start_client: StartClient, engine: Engine
) -> None:
    announced: list[Any] = []

    async def note(event: MeshEvent) -> None:
        announced.append((event.topic, event.payload["status"], event.payload["user_id"]))

    mesh = await start_client(EventRule("first", "orders.*.updated", note))
    await engine.serve(orders_service(mesh.publish))
    mine, other = {"user_id": "u1"}, {"user_id": "u2"}
    order = await mesh.request("orders", "place", {"item": "tea", "quantity": 2}, context=mine)
    await mesh.request("orders", "update", {"order_id": "1", "status": "paid"}, context=mine)
    await until(lambda: len(announced) == 2)
    assert announced == [
        ("orders.1.updated", "placed", "u1"),
        ("orders.1.updated", "paid", "u1"),
    ]
    orders = await mesh.request("orders", "list", {}, context=mine)
    assert orders == {"orders": [{**order, "status": "paid"}]}
    assert await mesh.request("orders", "list", {}, context=other) == {"orders": []}
    for method, params in (("get", {"order_id": "1"}), ("place", {"item": "", "quantity": 1})):
        with pytest.raises(Problem) as caught:
            await mesh.request("orders", method, params, context=other)
        assert caught.value.code is Code.INVALID_PARAMS
