"""Messages from one user to another."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from bff import Caller, Messenger, RealtimeRouter

realtime = RealtimeRouter()


class Say(BaseModel):
    to: Annotated[str, Field(min_length=1, max_length=128)]
    text: Annotated[str, Field(min_length=1, max_length=500)]


class Said(BaseModel):
    connections: int
    """How many of the other user's sockets it was sent to."""


class Message(BaseModel):
    by: str
    text: str


message_said = realtime.emits("chat.said", Message)


@realtime.method("chat.say", scopes=["chat"])
async def say(params: Say, caller: Caller, messenger: Messenger) -> Said:
    message = Message(by=caller.user_id, text=params.text)
    sent = await messenger.to_user(params.to, message_said(message))
    return Said(connections=sent.addressed)
