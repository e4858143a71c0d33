"""Broadcasts, for administrators. Below them the engine's own admin routes are included."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Path, Query, Response, status
from pydantic import AwareDatetime, BaseModel, ConfigDict, model_validator

from bff import Audience
from bff.endpoints import (
    AdminDep,
    BroadcastsDep,
    ConnectionId,
    Topic,
    UserIds,
    admin,
    requires,
    responses,
)

logger = logging.getLogger(__name__)

router = APIRouter(
    prefix="/admin",
    tags=["admin"],
    dependencies=[Depends(requires("admin"))],
    responses=responses(401, 403, 422, 503),
)

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
    """What to send, and to whom."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    audience: Audience
    user_ids: UserIds = []
    """For the audience `users`."""
    connection_id: ConnectionId | None = None
    """For the audience `connection`."""
    topic: Topic
    event: dict[str, Any]
    """What browsers get, with `broadcast_id` beside it."""
    expires_at: AwareDatetime | None = None
    """Until then it also greets those of the audience who connect."""

    @model_validator(mode="after")
    def _matches_audience(self) -> Self:
        if bool(self.user_ids) != (self.audience is Audience.USERS):
            raise ValueError("user_ids go with the audience users, and only with it")
        if (self.connection_id is not None) != (self.audience is Audience.CONNECTION):
            raise ValueError("connection_id goes with the audience connection, and only with it")
        return self

    def recipients(self) -> list[str]:
        """The users, or the one connection."""
        return self.user_ids if self.connection_id is None else [self.connection_id]


class StoredBroadcast(BaseModel):
    """What was sent, and what became of it."""

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
    """Under which id it is stored, for all or for each recipient."""
    addressed: int | None
    """How many connections the index named; null when it is not known to be sent."""


@router.post("/broadcasts", status_code=status.HTTP_201_CREATED)
async def create_broadcast(
    broadcast: NewBroadcast, caller: AdminDep, broadcasts: BroadcastsDep, response: Response
) -> StoredBroadcast:
    """Store a message and send it to all, to users, or to one connection."""
    stored = await broadcasts.create(
        created_by=caller.user_id,
        audience=broadcast.audience,
        recipients=broadcast.recipients(),
        topic=broadcast.topic,
        event=broadcast.event,
        expires_at=broadcast.expires_at,
    )
    logger.info("broadcast sent", extra={"broadcast": stored.id, "by": caller.user_id})
    response.headers["Location"] = f"{router.prefix}/broadcasts/{stored.id}"
    return StoredBroadcast.model_validate(stored)


@router.get("/broadcasts", responses=responses(404))
async def read_broadcasts(
    broadcasts: BroadcastsDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[str | None, Query(max_length=36)] = None,
) -> list[StoredBroadcast]:
    """Newest first. The next page is the one `before` the id of the last."""
    found = await broadcasts.list(limit, before)
    return [StoredBroadcast.model_validate(broadcast) for broadcast in found]


@router.get("/broadcasts/{broadcast_id}", responses=responses(404))
async def read_broadcast(broadcast_id: BroadcastId, broadcasts: BroadcastsDep) -> StoredBroadcast:
    """One broadcast."""
    return StoredBroadcast.model_validate(await broadcasts.get(broadcast_id))


router.include_router(admin.router)
