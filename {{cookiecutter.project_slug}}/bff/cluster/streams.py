"""Streams of recoverable messages as Redis holds them, read page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

from bff.cluster.keys import Keys, StreamKeys
from bff.cluster.scripts import load
from bff.connections.positions import Position
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings

PAGE_MESSAGES = 100
PAGE_BYTES = 256 * 1024
"""A page is never larger than this and one message."""


class Page(NamedTuple):
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
        epoch, tip, complete = answer[:3]
        messages = zip(answer[3::2], answer[4::2], strict=True)
        return cls(
            Position(epoch.decode(), int(tip)),
            bool(complete),
            [(int(offset), text) for offset, text in messages] if len(answer) > 3 else (),
        )


class PageOfAll(NamedTuple):
    """What the stream of all holds after a position, and what is told to those who come then."""

    page: Page
    retained: Position
    """How often greetings were renewed, counted in each epoch."""

    @classmethod
    def of(cls, answer: list[Any]) -> PageOfAll:
        """What the script `read_all` returned."""
        renewed, found = answer
        page = Page.of(found)
        return cls(page, Position(page.tip.epoch, int(renewed)))


def page_arguments(after: Position | None, settings: Settings) -> list[str | int]:
    """What the Lua function `page` wants; without a position it reads only where the tip is."""
    epoch, offset = (after.epoch, after.offset) if after else ("", 0)
    return [settings.position_retention_seconds, epoch, offset, PAGE_MESSAGES, PAGE_BYTES]


class StreamReader:
    """Reads any stream. What is asked for in one turn of the loop shares a round trip."""

    def __init__(self, pipeline: AutoPipeline, settings: Settings) -> None:
        self._settings = settings
        self._all = Keys(settings.prefix).all
        self._read = load(pipeline, "read")
        self._read_all = load(pipeline, "read_all")

    async def read(self, stream: StreamKeys, after: Position | None = None) -> Page:
        """A page of what came after a position; only the tip without one.

        Raises:
            RedisError, OSError, TimeoutError: Redis cannot be asked.
        """
        arguments = page_arguments(after, self._settings)
        return Page.of(await self._read([stream.meta, stream.stream], arguments))

    def ask_all(
        self, since: Position | None, *, after: asyncio.Future[Any] | None = None
    ) -> asyncio.Future[Any]:
        """The stream of all, for `PageOfAll.of`: asked in this turn of the loop, and read when the
        command `after` is done."""
        keys = [self._all.meta, self._all.stream]
        return self._read_all(keys, page_arguments(since, self._settings), after=after)
