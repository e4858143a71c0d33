"""`bff serve` with one more feature: the methods, topics and event handlers of the traffic.

    PYTHONPATH=my-bff python -P tests/chaos/instance.py serve --port 8001

Everything else is the project as it is, with its routes.
"""

from __future__ import annotations

from typing import Any

from app import routes
from bff import MeshEvent, Messenger, RealtimeRouter, Topic, cli
from pydantic import BaseModel

EVENT = "chaos"
"""The topic of the events that clients receive."""
RULE = "chaos.happened"
"""The topic of the mesh events that the event handler receives."""

realtime = RealtimeRouter()


class Numbered(BaseModel):
    """A message with a unique number."""

    message: int
    stream: str
    """`user:<user>`, `all` or `topic:<topic>`."""


class Stored(BaseModel):
    id: str | None


@realtime.method("chaos.say", scopes=["admin"])
async def say(params: Numbered, messenger: Messenger) -> Stored:
    return Stored(id=await _send(messenger, params))


@realtime.method("chaos.echo", scopes=[])
async def echo(params: Numbered) -> Numbered:
    return params


@realtime.topic("chaos.*")
async def anybody_may(topic: Topic) -> bool:
    return True


@realtime.event(RULE, name="chaos_happened")
async def chaos_happened(event: MeshEvent, messenger: Messenger) -> None:
    await _send(messenger, Numbered.model_validate(event.payload))


async def _send(messenger: Messenger, numbered: Numbered) -> str | None:
    event: dict[str, Any] = {"message": numbered.message}
    kind, _, name = numbered.stream.partition(":")
    if kind == "user":
        return (await messenger.to_user(name, EVENT, event)).id
    if kind == "topic":
        return await messenger.to_topic(name, event)
    return (await messenger.to_all(EVENT, event)).id


if __name__ in ("__main__", "__mp_main__"):  # a worker of `--workers` imports it as the latter
    routes.REALTIME = (*routes.REALTIME, realtime)  # type: ignore[assignment]

if __name__ == "__main__":
    cli.main()
