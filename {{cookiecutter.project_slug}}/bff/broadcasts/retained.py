"""What is still of interest to somebody who connects now, without asking the database for each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from bff.cluster.keys import Keys
from bff.connections.messages import Event
from bff.connections.positions import Position
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings

_SECONDS: Final = 10.0
"""How long the database may take."""


MAX_RETAINED = 100
"""How many greetings a user gets, and how many for all are kept; of more, the newest."""


@dataclass(frozen=True, slots=True)
class RetainedBroadcast:
    """A broadcast that has not expired."""

    event: Event
    expires_at: datetime
    users: frozenset[str] | None
    """None for everybody."""


class RetainedBroadcasts:
    """This instance's copy of the greetings, loaded again when Redis names newer ones.

    Redis counts how often they were renewed, in the stream of all: with its epoch, so that a Redis
    that has lost the count makes everybody load. It is counted after a broadcast is committed and
    read before the database is, so a copy can be newer than what was named, never older.
    """

    def __init__(
        self,
        pipeline: AutoPipeline,
        settings: Settings,
        load: Callable[[], Awaitable[Sequence[RetainedBroadcast]]],
    ) -> None:
        self._pipeline = pipeline
        self._key = Keys(settings.prefix).all.meta
        self._load = load
        self._retained: Sequence[RetainedBroadcast] = ()
        self._loaded: Position | None = None
        """Which greetings these are, at least."""
        self._loading = asyncio.Lock()

    async def renew(self) -> None:
        """Make every instance load anew."""
        await self._pipeline.submit("HINCRBY", self._key, "greetings", 1)

    async def of(self, user_id: str, current: Position) -> list[Event]:
        """The user's greetings, oldest first; `current` names those that Redis knows of.

        Raises:
            TimeoutError: the database did not answer in time.
            Exception: what it raised instead.
        """
        if not self._has(current):
            async with asyncio.timeout(_SECONDS), self._loading:
                if not self._has(current):
                    self._retained, self._loaded = await self._load(), current
        if not self._retained:
            return []
        now = datetime.now(UTC)
        return [
            retained.event
            for retained in self._retained
            if retained.expires_at > now and (retained.users is None or user_id in retained.users)
        ][-MAX_RETAINED:]

    def _has(self, current: Position) -> bool:
        loaded = self._loaded
        return (
            loaded is not None and loaded.epoch == current.epoch and loaded.offset >= current.offset
        )
