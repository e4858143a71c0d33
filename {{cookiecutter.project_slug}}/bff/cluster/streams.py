"""Reads the streams of recoverable messages from Redis, page by page."""

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
"""Maximum size of a page; one message alone may exceed it."""


class Page(NamedTuple):
    """What a stream contains after a position."""

    tip: Position
    """The position of the newest message."""
    complete: bool
    """Whether Redis still has everything after the position. If not, `messages` is empty."""
    messages: Sequence[tuple[int, bytes]] = ()
    """Consecutive offsets with the encoded frames, from the position on; `tip` may be beyond."""

    def begins_at(self, after: Position | None) -> Position:
        """Where the reader continues: at the requested position, or at `tip` after a loss."""
        return after if after is not None and self.complete else self.tip

    @classmethod
    def of(cls, reply: list[Any]) -> Page:
        """Parse the result of the Lua function `page`."""
        epoch, tip, complete = reply[:3]
        messages = zip(reply[3::2], reply[4::2], strict=True)
        return cls(
            Position(epoch.decode(), int(tip)),
            bool(complete),
            [(int(offset), text) for offset, text in messages] if len(reply) > 3 else (),
        )


class PageWithVersions(NamedTuple):
    """A page of the stream `all`, and two versions of the same moment and epoch. A copy that is at
    least as new as a version needs no read of Redis or the database."""

    page: Page
    retained_version: Position
    """How many changes the retained broadcasts have had."""
    revocations_version: Position
    """How many changes the revocations have had."""

    @classmethod
    def of(cls, reply: list[Any]) -> PageWithVersions:
        """Parse the result of the script `read_all`."""
        retained, revocations, found = reply
        page = Page.of(found)
        epoch = page.tip.epoch
        return cls(page, Position(epoch, int(retained)), Position(epoch, int(revocations)))


def page_arguments(after: Position | None, settings: Settings) -> list[str | int]:
    """The arguments of the Lua function `page`; without a position it returns only the tip."""
    epoch, offset = (after.epoch, after.offset) if after else ("", 0)
    return [settings.position_retention_seconds, epoch, offset, PAGE_MESSAGES, PAGE_BYTES]


class StreamReader:
    """Reads any stream. All reads of one event loop iteration share a round trip."""

    def __init__(self, pipeline: AutoPipeline, keys: Keys, settings: Settings) -> None:
        self._settings = settings
        self._all = keys.all
        self._read = load(pipeline, "read")
        self._read_all = load(pipeline, "read_all")

    async def read(self, stream: StreamKeys, after: Position | None = None) -> Page:
        """A page of what follows a position; without a position only the tip.

        Raises:
            RedisError, OSError, TimeoutError: Redis is unavailable.
        """
        arguments = page_arguments(after, self._settings)
        is_topic = stream.name.startswith("topic:")
        arguments.append(self._settings.unused_topic_seconds if is_topic else arguments[0])
        return Page.of(await self._read([stream.meta, stream.stream], arguments))

    def request_all(
        self, since: Position | None, *, after: asyncio.Future[Any] | None = None
    ) -> asyncio.Future[Any]:
        """Request a page of the stream `all`; `PageWithVersions.of` parses the result.

        The command is submitted at once, and executed after the command whose reply is `after`.
        """
        keys = [self._all.meta, self._all.stream]
        return self._read_all(keys, page_arguments(since, self._settings), after=after)
