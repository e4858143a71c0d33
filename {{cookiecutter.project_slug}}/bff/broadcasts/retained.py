"""Retained broadcasts: sent to each client that connects before they expire.

They differ from MQTT's retained messages. MQTT keeps the last message of each topic until another
replaces it, and sends it at each subscription. Here every broadcast that has not expired is
retained, whatever its topic: for all users or for some, at most `MAX_RETAINED` for each, and
clients get them after the hello. The database stores them, and every instance keeps a copy in
memory, so that a connect needs no query.
"""

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

_LOAD_SECONDS: Final = 10.0
"""The timeout of a query."""

MAX_RETAINED = 100
"""How many retained broadcasts one user gets, and how many with the audience `all` are kept. The
newest count."""


@dataclass(frozen=True, slots=True)
class RetainedBroadcast:
    """A broadcast with an expiry."""

    event: Event
    expires_at: datetime
    users: frozenset[str] | None
    """The recipients; None for all users."""


class RetainedBroadcasts:
    """This instance's copy of the retained broadcasts, and the version that it has.

    Redis holds the current version: a counter beside the stream `all`, in the epoch of the stream,
    so that all instances reload when Redis has lost its data. `invalidate` increments it after a
    broadcast is committed, and the version is read before the database is queried. So a copy may
    be newer than its version, but never older.
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
        self._version: Position | None = None
        """The version of the copy, or an older one."""
        self._loading = asyncio.Lock()

    async def invalidate(self) -> None:
        """Make every instance reload its copy."""
        await self._pipeline.submit("HINCRBY", self._key, "retained", 1)

    async def of(self, user_id: str, version: Position) -> list[Event]:
        """The user's retained broadcasts, oldest first. `version` is the current one in Redis.

        Raises:
            TimeoutError: the database did not answer within 10 s.
            Exception: what `load` raised.
        """
        if not self._is_current(version):
            async with asyncio.timeout(_LOAD_SECONDS), self._loading:
                if not self._is_current(version):
                    self._retained, self._version = await self._load(), version
        if not self._retained:
            return []
        now = datetime.now(UTC)
        return [
            retained.event
            for retained in self._retained
            if retained.expires_at > now and (retained.users is None or user_id in retained.users)
        ][-MAX_RETAINED:]

    def _is_current(self, version: Position) -> bool:
        own = self._version
        return own is not None and own.epoch == version.epoch and own.offset >= version.offset
