"""The example feature. For your own, copy this file and list it in `routes/__init__.py`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from bff import Caller, MeshClient, MeshEvent, Messenger, RealtimeRouter
from bff.endpoints import CallerDep, MeshDep, responses

router = APIRouter(prefix="/orders", tags=["orders"], responses=responses(401, 403, 502, 503, 504))
realtime = RealtimeRouter()


class PlaceOrder(BaseModel):
    item: Annotated[str, Field(min_length=1, max_length=100, examples=["tea"])]
    quantity: Annotated[int, Field(gt=0, le=1000, examples=[2])] = 1


class ShareOrder(BaseModel):
    order_id: Annotated[str, Field(max_length=100)]
    with_user: Annotated[str, Field(min_length=1, max_length=128)]


class Shared(BaseModel):
    connections: int
    """Number of the other user's connections it was sent to."""


# HTTP


@router.get("", summary="The caller's orders")
async def list_orders(caller: CallerDep, mesh: MeshDep) -> dict[str, Any]:
    caller.require("orders")
    orders: dict[str, Any] = await mesh.request("orders", "list", {})
    return orders


@router.post("", status_code=201, summary="Place an order", responses=responses(422))
async def place_order(order: PlaceOrder, caller: CallerDep, mesh: MeshDep) -> dict[str, Any]:
    caller.require("orders")
    placed: dict[str, Any] = await mesh.request("orders", "place", order.model_dump())
    return placed


# Browser to mesh: only these methods of the service `orders`


realtime.expose("orders", methods=["list", "place", "get", "update"], scopes=["orders"])


# Browser to BFF: handled in this file


@realtime.method("orders.share", scopes=["orders"])
async def share(
    params: ShareOrder, caller: Caller, messenger: Messenger, mesh: MeshClient
) -> Shared:
    """Send one of the caller's orders to another user."""
    order = await mesh.request("orders", "get", {"order_id": params.order_id})
    sent = await messenger.to_user(
        params.with_user, "order.shared", {"by": caller.username, "order": order}
    )
    return Shared(connections=sent.addressed)


# Mesh events to browsers: to the order's user, and to subscribers of a topic


@realtime.topic("orders.latest", scopes=["orders"])
async def may_follow_orders() -> bool:
    return True


@realtime.event("orders.*.updated", name="order_updated")
async def order_updated(event: MeshEvent, messenger: Messenger) -> None:
    order = event.payload
    await messenger.to_user(order["user_id"], "order.updated", order)
    await messenger.to_topic("orders.latest", {"item": order["item"], "status": order["status"]})
