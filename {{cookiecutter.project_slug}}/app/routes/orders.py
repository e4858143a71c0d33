"""The example feature. `bff new feature NAME` writes your own, or copy this file and list it in
`routes/__init__.py`."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from bff import Caller, MeshClient, MeshEvent, Messenger, RealtimeRouter
from bff.endpoints import JsonRoute, MeshDep, requires, responses

router = APIRouter(
    prefix="/orders",
    tags=["orders"],
    route_class=JsonRoute,
    dependencies=[Depends(requires("orders"))],
    responses=responses(401, 403, 502, 503, 504),
)
realtime = RealtimeRouter()

OrderId = Annotated[str, Field(max_length=100, examples=["1"])]
Status = Literal["placed", "paid", "shipped", "cancelled"]


class Order(BaseModel):
    order_id: OrderId
    user_id: str
    item: str
    quantity: int
    status: Status


class Orders(BaseModel):
    orders: list[Order]
    """The newest first, at most 100."""


class ListOrders(BaseModel):
    pass


class PlaceOrder(BaseModel):
    item: Annotated[str, Field(min_length=1, max_length=100, examples=["tea"])]
    quantity: Annotated[int, Field(gt=0, le=1000, examples=[2])] = 1


class GetOrder(BaseModel):
    order_id: OrderId


class UpdateOrder(BaseModel):
    order_id: OrderId
    status: Status


class ShareOrder(BaseModel):
    order_id: OrderId
    with_user: Annotated[str, Field(min_length=1, max_length=128, examples=["bob"])]


class Shared(BaseModel):
    connections: int
    """Number of the other user's connections it was sent to."""


class SharedOrder(BaseModel):
    by: str
    order: Order


class LatestOrder(BaseModel):
    item: str
    status: Status


# HTTP


@router.get("", summary="The caller's orders")
async def list_orders(mesh: MeshDep) -> Orders:
    return Orders.model_validate(await mesh.request("orders", "list", {}))


@router.post("", status_code=201, summary="Place an order", responses=responses(422))
async def place_order(order: PlaceOrder, mesh: MeshDep) -> Order:
    return Order.model_validate(await mesh.request("orders", "place", order.model_dump()))


# Browser to mesh: only these methods of the service `orders`


SCOPES = ["orders"]
realtime.expose("orders", methods=["list"], scopes=SCOPES, params=ListOrders, result=Orders)
realtime.expose("orders", methods=["place"], scopes=SCOPES, params=PlaceOrder, result=Order)
realtime.expose("orders", methods=["get"], scopes=SCOPES, params=GetOrder, result=Order)
realtime.expose("orders", methods=["update"], scopes=SCOPES, params=UpdateOrder, result=Order)


# Browser to BFF: handled in this file


order_shared = realtime.emits("order.shared", SharedOrder)


@realtime.method("orders.share", scopes=SCOPES)
async def share(
    params: ShareOrder, caller: Caller, messenger: Messenger, mesh: MeshClient
) -> Shared:
    """Send one of the caller's orders to another user."""
    order = Order.model_validate(await mesh.request("orders", "get", {"order_id": params.order_id}))
    shared = SharedOrder(by=caller.username, order=order)
    sent = await messenger.to_user(params.with_user, order_shared(shared))
    return Shared(connections=sent.addressed)


# Mesh events to browsers: to the order's user, and to subscribers of a topic


order_updated = realtime.emits("order.updated", Order)
latest_order = realtime.emits("orders.latest", LatestOrder)


@realtime.topic("orders.latest", scopes=SCOPES)
async def may_follow_orders() -> bool:
    return True


@realtime.event("orders.*.updated", name="order_updated")
async def on_order_updated(event: MeshEvent, messenger: Messenger) -> None:
    order = Order.model_validate(event.payload)
    await messenger.to_user(order.user_id, order_updated(order))
    await messenger.to_topic(latest_order(LatestOrder(item=order.item, status=order.status)))
