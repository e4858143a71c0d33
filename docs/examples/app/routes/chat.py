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


@realtime.method("chat.say", scopes=["chat"])
async def say(params: Say, caller: Caller, messenger: Messenger) -> Said:
    event = {"by": caller.user_id, "text": params.text}
    sent = await messenger.to_user(params.to, "chat.said", event)
    return Said(connections=sent.addressed)
