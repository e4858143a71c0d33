"""The service `orders` on a real mesh: `python orders.py amqp://guest:guest@localhost:5672/`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

from nuropb.contexts.context_manager import NuropbContextManager
from nuropb.contexts.context_manager_decorator import nuropb_context
from nuropb.interface import NuropbValidationError
from nuropb.rmq_api import RMQAPI
from nuropb.rmq_lib import configure_nuropb_rmq

Order = dict[str, Any]


class Orders:
    """Every user's orders, in memory."""

    api: RMQAPI

    def __init__(self) -> None:
        self._orders: dict[str, Order] = {}

    @nuropb_context
    def list(self, ctx: NuropbContextManager) -> dict[str, Any]:
        user_id = ctx.context["user_id"]
        return {"orders": [o for o in self._orders.values() if o["user_id"] == user_id]}

    @nuropb_context
    def place(self, ctx: NuropbContextManager, item: str, quantity: int) -> Order:
        order_id = str(len(self._orders) + 1)
        order = {"order_id": order_id, "user_id": ctx.context["user_id"], "item": item}
        order |= {"quantity": quantity, "status": "placed"}
        self._orders[order_id] = order
        return self._announced(order)

    @nuropb_context
    def get(self, ctx: NuropbContextManager, order_id: str) -> Order:
        return self._own(ctx, order_id)

    @nuropb_context
    def update(self, ctx: NuropbContextManager, order_id: str, status: str) -> Order:
        order = self._own(ctx, order_id)
        order["status"] = status
        return self._announced(order)

    def _own(self, ctx: NuropbContextManager, order_id: str) -> Order:
        order = self._orders.get(order_id)
        if order is None or order["user_id"] != ctx.context["user_id"]:
            raise NuropbValidationError(description="There is no such order")
        return order

    def _announced(self, order: Order) -> Order:
        """Publish the event that the BFF's event handler `order_updated` receives."""
        self.api.publish_event(f"orders.{order['order_id']}.updated", order, context={})
        return order


async def main(amqp_url: str) -> None:
    configure_nuropb_rmq(
        rmq_url=amqp_url,
        events_exchange="nuropb-events-exchange",
        rpc_exchange="nuropb-rpc-exchange",
        dl_exchange="nuropb-dl-exchange",
        dl_queue="nuropb-orders-dl",
    )
    orders = Orders()
    orders.api = RMQAPI(amqp_url, service_name="orders", service_instance=orders)
    await orders.api.connect()
    print("orders is on the mesh", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(sys.argv[1]))
