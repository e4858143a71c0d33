"""Broadcasts, for administrators. The engine's other admin routes are included at the end."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Path, Query, Request, Response, status
from pydantic import AwareDatetime, BaseModel, ConfigDict, model_validator

from bff import Audience, RealtimeRouter
from bff.endpoints import (
    AdminDep,
    AuditDep,
    BroadcastsDep,
    ConnectionId,
    JsonRoute,
    Topic,
    UserIds,
    admin,
    requires,
    responses,
)

router = APIRouter(
    prefix="/admin",
    tags=["admin"],
    route_class=JsonRoute,
    dependencies=[Depends(requires("admin"))],
    responses=responses(401, 403, 422, 503),
)

realtime = RealtimeRouter()


class Notice(BaseModel):
    text: str
    broadcast_id: str | None = None
    """The same each time a client gets a retained broadcast."""


notice = realtime.emits("notice", Notice)

BroadcastId = Annotated[str, Path(max_length=36)]

_EXAMPLE: dict[str, Any] = {
    "audience": "users",
    "user_ids": ["alice", "bob"],
    "topic": "notice",
    "event": {"text": "Maintenance at 22:00"},
    "expires_at": "2040-01-01T22:00:00Z",
}
_STORED: dict[str, Any] = {
    "id": "5b0f7a52-9a55-4f0c-8f0e-0a6c8cf3c0a1",
    "created_at": "2040-01-01T12:00:00Z",
    "created_by": "carol",
    "audience": "users",
    "recipients": ["alice", "bob"],
    "topic": "notice",
    "event": {"text": "Maintenance at 22:00"},
    "expires_at": "2040-01-01T22:00:00Z",
    "message_ids": ["user/3f2a/17", "user/91bc/4"],
    "addressed": 3,
}


class NewBroadcast(BaseModel):
    """A message and its audience."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    audience: Audience
    user_ids: UserIds = []
    """Recipients, with audience `users`."""
    connection_id: ConnectionId | None = None
    """Recipient, with audience `connection`."""
    topic: Topic
    event: dict[str, Any]
    """The payload that browsers receive. The BFF adds `broadcast_id`."""
    expires_at: AwareDatetime | None = None
    """Retained until then: clients of the audience that connect later receive it too."""

    @model_validator(mode="after")
    def _matches_audience(self) -> Self:
        if bool(self.user_ids) != (self.audience is Audience.USERS):
            raise ValueError("user_ids is required with audience users, and only there")
        if (self.connection_id is not None) != (self.audience is Audience.CONNECTION):
            raise ValueError("connection_id is required with audience connection, and only there")
        return self

    def recipients(self) -> list[str]:
        """The ids of the users, or of the connection."""
        return self.user_ids if self.connection_id is None else [self.connection_id]


class StoredBroadcast(BaseModel):
    """A broadcast that was sent."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [_STORED]})

    id: str
    created_at: datetime
    created_by: str
    audience: Audience
    recipients: list[str]
    topic: str
    event: dict[str, Any]
    expires_at: datetime | None
    message_ids: list[str | None]
    """Ids of the stored message: one for all, or one per recipient."""
    addressed: int | None
    """Number of connections it was sent to; null if the send did not complete."""


@router.post("/broadcasts", status_code=status.HTTP_201_CREATED)
async def create_broadcast(
    broadcast: NewBroadcast,
    caller: AdminDep,
    broadcasts: BroadcastsDep,
    audit: AuditDep,
    request: Request,
    response: Response,
) -> StoredBroadcast:
    """Store a message and send it to all users, to some users, or to one connection."""
    stored = await broadcasts.create(
        created_by=caller.user_id,
        audience=broadcast.audience,
        recipients=broadcast.recipients(),
        topic=broadcast.topic,
        event=broadcast.event,
        expires_at=broadcast.expires_at,
    )
    audit.record("broadcast_sent", broadcast=stored.id, audience=broadcast.audience)
    location = request.url_for("read_broadcast", broadcast_id=stored.id)
    response.headers["Location"] = location.path
    return StoredBroadcast.model_validate(stored)


@router.get("/broadcasts", responses=responses(404))
async def read_broadcasts(
    broadcasts: BroadcastsDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[str | None, Query(max_length=36)] = None,
) -> list[StoredBroadcast]:
    """Newest first. For the next page, pass the id of the last one as `before`."""
    found = await broadcasts.list(limit, before)
    return [StoredBroadcast.model_validate(broadcast) for broadcast in found]


@router.get("/broadcasts/{broadcast_id}", responses=responses(404))
async def read_broadcast(broadcast_id: BroadcastId, broadcasts: BroadcastsDep) -> StoredBroadcast:
    """One broadcast."""
    return StoredBroadcast.model_validate(await broadcasts.get(broadcast_id))


router.include_router(admin.router)
