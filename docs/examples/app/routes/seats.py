"""Seats: the service `theatre` calls `sold_out` when a show has no seats left."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from bff import MeshRequest, Messenger, RealtimeRouter

realtime = RealtimeRouter()


class SoldOut(BaseModel):
    show: str
    waiting: Annotated[list[str], Field(max_length=500)]


class NoSeats(BaseModel):
    show: str
    by: str


no_seats = realtime.emits("seats.sold_out", NoSeats)


@realtime.mesh_method("sold_out")
async def sold_out(params: SoldOut, request: MeshRequest, messenger: Messenger) -> int:
    """Notify the waiting users; returns how many sockets were addressed."""
    event = no_seats(NoSeats(show=params.show, by=request.context["user_id"]))
    sent = await messenger.to_users(params.waiting, event)
    return sum(one.addressed for one in sent)
