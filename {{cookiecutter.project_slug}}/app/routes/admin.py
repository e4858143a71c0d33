"""For administrators: broadcasts, whose sockets are where, and ending them."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Path, Query, Request, Response, status
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from app.auth.caller import MAX_ID, Caller
from app.auth.dependencies import requires
from app.broadcasts.service import BroadcastService
from app.cluster.index import ConnectionFacts, ConnectionIndex
from app.cluster.lease import InstanceFacts
from app.cluster.messenger import Messenger
from app.connections.frames import check_depth, decode, encode
from app.db.tables import Audience
from app.errors import Code, Problem
from app.routes.problems import responses
from app.settings import Settings

logger = logging.getLogger(__name__)

MAX_USERS = 1000
_END_OF_TIME = datetime(9999, 1, 1, tzinfo=UTC)

_TEXT = r"^[^\x00-\x1f\x7f-\x9f]+$"
UserId = Annotated[str, Field(max_length=MAX_ID, pattern=_TEXT)]
ConnectionId = Annotated[str, Field(max_length=128, pattern=r"^[A-Za-z0-9_.-]+$")]
Topic = Annotated[str, Field(max_length=255, pattern=_TEXT)]
UserIdInPath = Annotated[str, Path(max_length=MAX_ID, pattern=_TEXT)]

Admin = Annotated[Caller, Depends(requires("admin"))]


def _broadcasts(request: Request) -> BroadcastService:
    service: BroadcastService = request.app.state.broadcasts
    return service


def _index(request: Request) -> ConnectionIndex:
    index: ConnectionIndex = request.app.state.index
    return index


def _messenger(request: Request) -> Messenger:
    messenger: Messenger = request.app.state.messenger
    return messenger


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


BroadcastsDep = Annotated[BroadcastService, Depends(_broadcasts)]
IndexDep = Annotated[ConnectionIndex, Depends(_index)]
MessengerDep = Annotated[Messenger, Depends(_messenger)]
SettingsDep = Annotated[Settings, Depends(_settings)]

router = APIRouter(
    prefix="/admin",
    tags=["admin"],
    dependencies=[Depends(requires("admin"))],
    responses=responses(401, 403, 422, 503),
)

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
    user_ids: Annotated[list[UserId], Field(max_length=MAX_USERS)] = []
    """For the audience `users`."""
    connection_id: ConnectionId | None = None
    """For the audience `connection`."""
    topic: Topic
    event: dict[str, Any]
    """What browsers get, with `broadcast_id` beside it."""
    expires_at: AwareDatetime | None = None
    """Until then it also greets those of the audience who connect."""

    @model_validator(mode="after")
    def _names_its_audience(self) -> Self:
        if bool(self.user_ids) != (self.audience is Audience.USERS):
            raise ValueError("user_ids go with the audience users, and only with it")
        if (self.connection_id is not None) != (self.audience is Audience.CONNECTION):
            raise ValueError("connection_id goes with the audience connection, and only with it")
        return self

    @model_validator(mode="after")
    def _expires_sensibly(self) -> Self:
        if self.expires_at is None:
            return self
        if self.audience is Audience.CONNECTION:
            raise ValueError("expires_at is for those who come later: a connection cannot")
        if not datetime.now(UTC) < self.expires_at < _END_OF_TIME:
            raise ValueError("expires_at must lie in the future")
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


class Addressed(BaseModel):
    """How many connections were told. Whether they still lived is not knowable."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"addressed": 3}]})

    addressed: int


class Stats(BaseModel):
    """The living instances, and what they last reported."""

    connections: int
    instances: list[InstanceFacts]


@router.post("/broadcasts", status_code=status.HTTP_201_CREATED)
async def create_broadcast(
    broadcast: NewBroadcast,
    admin: Admin,
    broadcasts: BroadcastsDep,
    settings: SettingsDep,
    response: Response,
) -> StoredBroadcast:
    """Store a message and send it to all, to users, or to one connection."""
    stored = await broadcasts.create(
        created_by=admin.user_id,
        audience=broadcast.audience,
        recipients=broadcast.recipients(),
        topic=broadcast.topic,
        event=_as_sent(broadcast.event, settings),
        expires_at=broadcast.expires_at,
    )
    logger.info(
        "broadcast %s by %s to %s: %s addressed",
        stored.id,
        admin.user_id,
        stored.audience,
        stored.addressed,
    )
    response.headers["Location"] = f"{router.prefix}/broadcasts/{stored.id}"
    return StoredBroadcast.model_validate(stored)


@router.get("/broadcasts", responses=responses(404))
async def read_broadcasts(
    broadcasts: BroadcastsDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[str | None, Query(max_length=36, pattern=_TEXT)] = None,
) -> list[StoredBroadcast]:
    """Newest first. The next page is the one `before` the id of the last."""
    found = await broadcasts.list(limit, before)
    return [StoredBroadcast.model_validate(broadcast) for broadcast in found]


@router.get("/broadcasts/{broadcast_id}", responses=responses(404))
async def read_broadcast(
    broadcast_id: Annotated[str, Path(max_length=36, pattern=_TEXT)], broadcasts: BroadcastsDep
) -> StoredBroadcast:
    """One broadcast."""
    return StoredBroadcast.model_validate(await broadcasts.get(broadcast_id))


@router.get("/users/{user_id:path}/connections")
async def read_connections(user_id: UserIdInPath, index: IndexDep) -> list[ConnectionFacts]:
    """The user's connections, on whatever instance."""
    return await index.connections_of(user_id)


@router.delete("/users/{user_id:path}/connections", status_code=status.HTTP_202_ACCEPTED)
async def delete_connections(
    user_id: UserIdInPath, admin: Admin, messenger: MessengerDep
) -> Addressed:
    """Close all sockets of a user, with 4504. It is done when they are closed, a moment later."""
    addressed = await messenger.close_user(user_id)
    logger.info("%s disconnects %s: %s addressed", admin.user_id, user_id, addressed)
    return Addressed(addressed=addressed)


@router.get("/stats")
async def read_stats(index: IndexDep) -> Stats:
    """How many connections there are, and where."""
    instances = await index.instances()
    return Stats(connections=sum(facts.connections for facts in instances), instances=instances)


def _as_sent(event: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The event as JSON has it.

    Raises:
        Problem: `invalid_params` when it is too large, too deep, or no JSON that can be sent.
    """
    try:
        text = encode(event)
    except TypeError:
        raise Problem(Code.INVALID_PARAMS, "event: holds what JSON cannot carry") from None
    if len(text) > settings.max_frame_bytes:
        raise Problem(Code.INVALID_PARAMS, f"event: larger than {settings.max_frame_bytes} bytes")
    checked: dict[str, Any] = decode(text)
    check_depth(checked, settings.max_json_depth)
    return checked
