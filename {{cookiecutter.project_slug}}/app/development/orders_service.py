"""A stand-in for the mesh service `orders`, which another team would write and run.

With `AMQP_URL=memory://` it runs inside the BFF's process. To run it on RabbitMQ:
`python -m app.development.orders_service`.
"""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from bff import Code, Context, Problem, Publish, Service, run_service

MAX_ORDERS = 1_000
MAX_LISTED = 100

Item = Annotated[str, Field(min_length=1, max_length=200)]
Quantity = Annotated[int, Field(gt=0, le=1000)]
Status = Literal["placed", "paid", "shipped", "cancelled"]


class Order(BaseModel):
    order_id: str
    user_id: str
    item: str
    quantity: int
    status: Status = "placed"


def orders_service(publish: Publish) -> Service:
    """Keeps the newest 1,000 orders of all users in memory."""
    service = Service("orders", version="1.0")
    orders: dict[str, Order] = {}
    placed = 0

    def own(context: Context, order_id: str) -> Order:
        order = orders.get(order_id)
        if order is None or order.user_id != context.get("user_id"):
            raise Problem(Code.INVALID_PARAMS, "No such order")
        return order

    async def publish_update(order: Order) -> Order:
        await publish(f"orders.{order.order_id}.updated", order.model_dump())
        return order

    @service.method("list")
    async def list_orders(context: Context) -> dict[str, Any]:
        """The caller's orders, the newest first, at most 100."""
        mine = (o for o in reversed(orders.values()) if o.user_id == context.get("user_id"))
        return {"orders": [order.model_dump() for order in islice(mine, MAX_LISTED)]}

    @service.method("place")
    async def place(context: Context, item: Item, quantity: Quantity) -> Order:
        """A new order."""
        nonlocal placed
        placed += 1
        user_id = context.get("user_id", "")
        order = Order(order_id=str(placed), user_id=user_id, item=item, quantity=quantity)
        orders[order.order_id] = order
        if len(orders) > MAX_ORDERS:
            del orders[next(iter(orders))]
        return await publish_update(order)

    @service.method("get")
    async def get(context: Context, order_id: str) -> Order:
        """One of the caller's orders."""
        return own(context, order_id)

    @service.method("update")
    async def update(context: Context, order_id: str, status: Status) -> Order:
        """Change the status of an order."""
        order = own(context, order_id)
        order.status = status
        return await publish_update(order)

    return service


if __name__ == "__main__":
    asyncio.run(run_service(orders_service))
