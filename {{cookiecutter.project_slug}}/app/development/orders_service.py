"""The example mesh service `orders`: what a team behind the BFF would write and run itself.

On `memory://` it lives in the BFF's process; `python -m app.development.orders_service` runs it on
RabbitMQ.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from itertools import islice
from typing import Any, Protocol

from app.errors import Code, Problem
from app.mesh.amqp_service import AmqpService
from app.mesh.client import connect
from app.mesh.service import Methods
from app.settings import Settings
from app.telemetry.logs import configure
from app.telemetry.metrics import Metrics

MAX_ORDERS = 1_000
STATUSES = ("placed", "paid", "shipped", "cancelled")


class Publish(Protocol):
    """`MeshClient.publish`, or anything that publishes an event."""

    def __call__(self, topic: str, event: Any, /) -> Awaitable[None]: ...


class OrdersService:
    """Orders of each user, in memory: the oldest goes when there are too many."""

    name = "orders"

    def __init__(self, publish: Publish) -> None:
        self._publish = publish
        self._orders: dict[str, dict[str, Any]] = {}
        self._count = 0

    @property
    def methods(self) -> Methods:
        """What the mesh may call."""
        return {
            "list": self.list_orders,
            "place": self.place,
            "get": self.get,
            "update": self.update,
        }

    async def list_orders(self, *, context: dict[str, Any]) -> dict[str, Any]:
        """The caller's orders, the newest first, at most 100."""
        user_id = context.get("user_id")
        own = (order for order in reversed(self._orders.values()) if order["user_id"] == user_id)
        return {"orders": list(islice(own, 100))}

    async def place(self, *, context: dict[str, Any], item: str, quantity: int) -> dict[str, Any]:
        """A new order."""
        if not isinstance(item, str) or not 0 < len(item) <= 200:
            raise Problem(Code.INVALID_PARAMS, "item: 1 to 200 characters")
        if not isinstance(quantity, int) or not 0 < quantity <= 1000:
            raise Problem(Code.INVALID_PARAMS, "quantity: 1 to 1000")
        self._count += 1
        order_id = str(self._count)
        order = {
            "order_id": order_id,
            "user_id": context.get("user_id"),
            "item": item,
            "quantity": quantity,
            "status": STATUSES[0],
        }
        self._orders[order_id] = order
        if len(self._orders) > MAX_ORDERS:
            del self._orders[next(iter(self._orders))]
        return await self._announced(order)

    async def get(self, *, context: dict[str, Any], order_id: str) -> dict[str, Any]:
        """One of the caller's orders."""
        order = self._orders.get(order_id)
        if order is None or order["user_id"] != context.get("user_id"):
            raise Problem(Code.INVALID_PARAMS, "There is no such order")
        return order

    async def update(
        self, *, context: dict[str, Any], order_id: str, status: str
    ) -> dict[str, Any]:
        """Give an order another status."""
        if status not in STATUSES:
            raise Problem(Code.INVALID_PARAMS, f"status: one of {', '.join(STATUSES)}")
        order = await self.get(context=context, order_id=order_id)
        order["status"] = status
        return await self._announced(order)

    async def _announced(self, order: dict[str, Any]) -> dict[str, Any]:
        await self._publish(f"orders.{order['order_id']}.updated", order)
        return order


async def serve(settings: Settings) -> None:
    """Take part in the mesh on RabbitMQ until cancelled."""
    mesh = connect(settings, Metrics())
    service = AmqpService(settings, OrdersService.name, OrdersService(mesh.publish).methods)
    await mesh.start()
    await service.start()
    try:
        await asyncio.Event().wait()
    finally:
        await service.stop()
        await mesh.stop()


if __name__ == "__main__":
    settings = Settings()
    configure(settings)
    asyncio.run(serve(settings))
