"""Rooms in which users write, and which users are online."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from bff import Caller, Messenger, Presence, RealtimeRouter, Topic

realtime = RealtimeRouter()

Room = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]


class Write(BaseModel):
    room: Room
    text: Annotated[str, Field(min_length=1, max_length=500)]


class Users(BaseModel):
    users: Annotated[list[str], Field(max_length=100)]


class Message(BaseModel):
    by: str
    text: str


@realtime.topic("rooms.*", scopes=["rooms"], payload=Message)
async def may_read(topic: Topic, caller: Caller) -> bool:
    return topic != "rooms.secret" or caller.user_id == "alice"


@realtime.method("rooms.write", scopes=["rooms"])
async def write(params: Write, caller: Caller, messenger: Messenger) -> None:
    message = Message(by=caller.user_id, text=params.text)
    await messenger.to_topic(f"rooms.{params.room}", message)


@realtime.topic("presence.#", scopes=["rooms"])
async def may_watch() -> bool:
    return True


@realtime.method("rooms.online", scopes=["rooms"])
async def online(params: Users, presence: Presence) -> list[str]:
    found = await presence.of(params.users)
    return [user_id for user_id, connections in found.items() if connections]
