"""Mesh methods for other services, on the service `APP_NAME`: send events, close connections."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from bff.cluster.index import ConnectionDetails
from bff.cluster.messenger import Messenger
from bff.cluster.presence import Presence
from bff.endpoints.names import MAX_USERS, Addressed, Topic
from bff.names import TopicName, UserId
from bff.realtime.router import RealtimeRouter

realtime = RealtimeRouter()

UserIds = Annotated[list[UserId], Field(min_length=1, max_length=MAX_USERS)]


class SendToUsers(BaseModel):
    user_ids: UserIds
    topic: Topic
    event: Any = None


class SendToTopic(BaseModel):
    topic: TopicName
    event: Any = None


class SendToAll(BaseModel):
    topic: Topic
    event: Any = None


class SendResult(Addressed):
    ids: list[str]
    """The ids of the stored messages: one for each user, in the order of `user_ids`, or one."""


class SendToTopicResult(BaseModel):
    id: str
    """The id of the stored message; empty if the event is declared as not stored."""


class DisconnectUsers(BaseModel):
    user_ids: UserIds


class PresenceQuery(BaseModel):
    user_ids: UserIds


class PresenceResult(BaseModel):
    users: dict[str, list[ConnectionDetails]]
    """Each user's connections on all instances; empty when the user is offline."""


@realtime.mesh_method("send_to_users")
async def send_to_users(params: SendToUsers, messenger: Messenger) -> SendResult:
    """Send an event to all connections of some users."""
    sent = await messenger.to_users(params.user_ids, params.topic, params.event)
    return SendResult(
        ids=[one.id for one in sent if one.id], addressed=sum(one.addressed for one in sent)
    )


@realtime.mesh_method("send_to_topic")
async def send_to_topic(params: SendToTopic, messenger: Messenger) -> SendToTopicResult:
    """Send an event to all subscribers of a topic."""
    return SendToTopicResult(id=await messenger.to_topic(params.topic, params.event))


@realtime.mesh_method("broadcast")
async def broadcast(params: SendToAll, messenger: Messenger) -> SendResult:
    """Send an event to all connections. It is not stored in the database."""
    sent = await messenger.to_all(params.topic, params.event)
    return SendResult(ids=[sent.id] if sent.id else [], addressed=sent.addressed)


@realtime.mesh_method("disconnect_users")
async def disconnect_users(params: DisconnectUsers, messenger: Messenger) -> Addressed:
    """Close all connections of some users with code 4504: clients must not reconnect."""
    return Addressed(addressed=sum(await messenger.close_users(params.user_ids)))


@realtime.mesh_method("presence")
async def presence(params: PresenceQuery, presence: Presence) -> PresenceResult:
    """Which of some users are online, and their connections."""
    return PresenceResult(users=await presence.of(params.user_ids))
