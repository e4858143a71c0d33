"""What other services of the mesh may ask of the BFF, under the name `APP_NAME`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from bff.cluster.index import ConnectionFacts
from bff.cluster.messenger import Messenger
from bff.cluster.presence import Presence
from bff.connections.messages import TopicName
from bff.endpoints.names import MAX_USERS, Topic, UserId
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


class Stored(BaseModel):
    id: str
    """Under which the message is stored."""


class Broadcast(BaseModel):
    topic: Topic
    event: Any = None


class DisconnectUsers(BaseModel):
    user_ids: UserIds


class AskPresence(BaseModel):
    user_ids: UserIds


class WhoIsOnline(BaseModel):
    users: dict[str, list[ConnectionFacts]]
    """The connections of each user, on whatever instance; none for who is offline."""


class Addressed(BaseModel):
    addressed: int
    """How many connections the index names."""


class Sent(Addressed):
    ids: list[str]
    """Under which the messages are stored, in the order of the users, each of them once."""


@realtime.mesh_method("send_to_users")
async def send_to_users(params: SendToUsers, messenger: Messenger) -> Sent:
    """Send an event to all sockets of some users."""
    sent = await messenger.to_users(params.user_ids, params.topic, params.event)
    return Sent(
        ids=[one.id for one in sent if one.id], addressed=sum(one.addressed for one in sent)
    )


@realtime.mesh_method("send_to_topic")
async def send_to_topic(params: SendToTopic, messenger: Messenger) -> Stored:
    """Send an event to everybody who has subscribed to a topic."""
    return Stored(id=await messenger.to_topic(params.topic, params.event))


@realtime.mesh_method("broadcast")
async def broadcast(params: Broadcast, messenger: Messenger) -> Sent:
    """Send an event to everybody who is connected. It is not kept in the database."""
    sent = await messenger.to_all(params.topic, params.event)
    return Sent(ids=[sent.id] if sent.id else [], addressed=sent.addressed)


@realtime.mesh_method("disconnect_users")
async def disconnect_users(params: DisconnectUsers, messenger: Messenger) -> Addressed:
    """Close all sockets of some users with 4504: they are not to come back by themselves."""
    return Addressed(addressed=sum(await messenger.close_users(params.user_ids)))


@realtime.mesh_method("presence")
async def presence(params: AskPresence, presence: Presence) -> WhoIsOnline:
    """Who is online, and where."""
    return WhoIsOnline(users=await presence.of(params.user_ids))
