"""A feature that declares one of everything, for the tests of the contract."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from bff.realtime.router import RealtimeRouter
from pydantic import BaseModel, ConfigDict, Field


class Status(StrEnum):
    OPEN = "open"
    PAID = "paid"


class Address(BaseModel):
    """Where it goes."""

    street: str
    city: str = "Basel"


class Card(BaseModel):
    kind: Literal["card"]
    number: str


class Cash(BaseModel):
    kind: Literal["cash"]


class Node(BaseModel):
    name: str
    children: list[Node] = []


class Subscribe(BaseModel):
    """Has the name of a frame of the engine."""

    newsletter: bool


class Order(BaseModel):
    """An order.

    Ends a comment: */
    """

    model_config = ConfigDict(populate_by_name=True)

    id: int = Field(alias="orderId")
    """The number */ of the order."""
    placed: datetime
    status: Status
    address: Address | None = None
    lines: list[tuple[str, int]] = []
    labels: dict[str, str] = {}
    payment: Annotated[Card | Cash, Field(discriminator="kind")]
    tree: Node | None = None
    matrix: list[list[float | None]] = []
    anything: Any = None
    flag: Literal[True, 7, "x"] = True
    with_dash: str = Field("", alias="with-dash")


class Place(BaseModel):
    item: Annotated[str, Field(min_length=1, max_length=20, examples=["tea"])]
    quantity: Annotated[int, Field(gt=0, le=1000)] = 1
    address: Address | None = None


class Nothing(BaseModel):
    pass


class Message(BaseModel):
    by: str
    text: str


def feature() -> RealtimeRouter:
    realtime = RealtimeRouter()
    realtime.expose("orders", methods=["place"], params=Place, result=Order, scopes=["orders"])
    realtime.expose("orders", methods=["list"], params=Nothing, result=list[Order])
    realtime.expose("orders", methods=["get_*"], params=Subscribe, result=Order, keep_result=True)
    realtime.expose("old", methods=["call", "un-do"])
    realtime.emits("order.updated", Order, description="An order has changed.")
    realtime.emits("typing", str, stored=False)
    realtime.emits("rooms.*", Message)

    @realtime.method("chat.now")
    async def now() -> None:
        """Nothing to say.

        In two paragraphs.
        """

    @realtime.method("chat.any")
    async def any_result(params: Place) -> Any:
        return params

    @realtime.topic("rooms.*", scopes=["rooms"])
    async def may_read() -> bool:
        """The messages of a room."""
        return True

    @realtime.topic("prices.#", payload=float)
    async def may_see() -> bool:
        return True

    @realtime.topic("presence.#")
    async def may_watch() -> bool:
        return True

    @realtime.topic("secret")
    async def may_know() -> bool:
        return True

    return realtime
