"""Streams of recoverable messages as Redis holds them, read page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.cluster.keys import StreamKeys
from app.cluster.pipeline import Script, SharedPipeline
from app.connections.positions import Position
from app.settings import Settings

PAGE_MESSAGES = 100
PAGE_BYTES = 256 * 1024
"""A page is never larger than this and one message."""


@dataclass(frozen=True, slots=True)
class Page:
    """What a stream holds after a position."""

    tip: Position
    """The newest message."""
    complete: bool
    """Whether all that followed the position is still there; else there are no messages."""
    messages: Sequence[tuple[int, bytes]] = ()
    """Offset and finished text, without a hole from the position on."""

    def begins_at(self, after: Position | None) -> Position:
        """What it goes on from: the position that was asked for, if all after it is there."""
        return after if after is not None and self.complete else self.tip

    @classmethod
    def of(cls, answer: list[Any]) -> Page:
        """What the Lua function `page` returned."""
        epoch, tip, complete, *messages = answer
        return cls(
            Position(epoch.decode(), int(tip)),
            bool(complete),
            [
                (int(offset), text)
                for offset, text in zip(messages[::2], messages[1::2], strict=True)
            ],
        )


def page_arguments(after: Position | None, settings: Settings) -> list[str | int]:
    """What the Lua function `page` wants; without a position it reads only where the tip is."""
    epoch, offset = (after.epoch, after.offset) if after else ("", 0)
    return [settings.position_seconds, epoch, offset, PAGE_MESSAGES, PAGE_BYTES]


class StreamReader:
    """Reads any stream. What is asked for in one turn of the loop shares a round trip."""

    def __init__(self, pipeline: SharedPipeline, settings: Settings) -> None:
        self._settings = settings
        self._read = Script(pipeline, "read")

    async def read(self, stream: StreamKeys, after: Position | None = None) -> Page:
        """A page of what came after a position; only the tip without one.

        Raises:
            RedisError, OSError, TimeoutError: Redis cannot be asked.
        """
        return Page.of(await self.ask(stream, after))

    def ask(self, stream: StreamKeys, after: Position | None = None) -> asyncio.Future[Any]:
        """The same, for `Page.of`, asked in this turn of the loop whatever else is awaited."""
        arguments = page_arguments(after, self._settings)
        return self._read([stream.meta, stream.stream], arguments)
