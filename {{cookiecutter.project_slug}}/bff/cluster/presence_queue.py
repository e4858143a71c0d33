"""Users whose presence may have changed: a queue in Redis that all instances work off."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from bff.cluster.keys import Keys
from bff.cluster.scripts import load
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings

_MOST = 500
_WORK_MS = 10_000
"""After this somebody else looks at what was taken and not settled."""


@dataclass(frozen=True, slots=True)
class Change:
    """A user to be looked at."""

    user_id: str
    mark: bytes


class PresenceQueue:
    """Nothing waits in it that another instance could not go on with.

    While nobody may watch presence it takes nothing in.
    """

    def __init__(self, pipeline: AutoPipeline, settings: Settings, *, watched: bool) -> None:
        self.watched = watched
        self._key = Keys(settings.prefix).presence
        self._grace_ms = int(settings.presence_grace_seconds * 1000)
        self._expect = load(pipeline, "presence_enqueue")
        self._take = load(pipeline, "presence_claim")
        self._settle = load(pipeline, "presence_release")
        self._came = asyncio.Event()

    async def come(self, users: Collection[str]) -> None:
        """Users have a connection more: they are looked at now."""
        if self.watched and users:
            await self._expect([self._key], [0, *users])
            self._came.set()

    async def leave(self, users: Collection[str]) -> None:
        """Users have a connection less: they are looked at when they could be back."""
        if self.watched and users:
            await self._expect([self._key], [self._grace_ms, *users])

    async def take(self) -> tuple[float, list[Change]]:
        """Who is due, and the seconds until the next is."""
        wait, *taken = await self._take([self._key], [_MOST, _WORK_MS])
        changes = [
            Change(user.decode(), mark) for user, mark in zip(taken[::2], taken[1::2], strict=True)
        ]
        return (wait / 1000 if wait >= 0 else float("inf")), changes

    async def settle(self, change: Change) -> None:
        """Somebody has looked."""
        await self._settle([self._key], [change.user_id, change.mark])

    async def called(self, within: float) -> None:
        """Wait until somebody comes, for so many seconds at the most."""
        try:
            async with asyncio.timeout(within):
                await self._came.wait()
        except TimeoutError:
            pass
        self._came.clear()
