"""A queue in Redis of users whose presence may have changed; all instances process it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from bff.cluster.context import ClusterContext
from bff.cluster.scripts import load

_MAX_CLAIMS: Final = 500
_CLAIM_MS: Final = 10_000
"""A user that is not released in this time can be claimed by another instance."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A user that this instance has claimed from the queue."""

    user_id: str
    score: bytes
    """The user's score in the queue; another one means that the user was enqueued, or claimed,
    again."""


class PresenceQueue:
    """Users wait in the queue until an instance has checked them, even if one crashes meanwhile.

    While no client may watch presence (`watched` is false), nothing is enqueued.
    """

    def __init__(self, context: ClusterContext, *, watched: bool) -> None:
        self.watched = watched
        self._key = context.keys.presence
        self._grace_ms = int(context.settings.presence_grace_seconds * 1000)
        self._enqueue = load(context.pipeline, "presence_enqueue")
        self._claim = load(context.pipeline, "presence_claim")
        self._release = load(context.pipeline, "presence_release")
        self._connected = asyncio.Event()

    async def on_connected(self, users: Collection[str]) -> None:
        """Users have one connection more; they are to be checked now. A later call of this
        or the next method replaces the time."""
        if self.watched and users:
            await self._enqueue([self._key], [0, *users])
            self._connected.set()

    async def on_disconnected(self, users: Collection[str]) -> None:
        """Users have one connection fewer; they are to be checked after the grace period."""
        if self.watched and users:
            await self._enqueue([self._key], [self._grace_ms, *users])

    async def claim(self) -> tuple[float, list[Claim]]:
        """Claim users that are due, at most `_MAX_CLAIMS`.

        Returns:
            The seconds until the next user is due, and the claimed users.
        """
        wait_ms, *claimed = await self._claim([self._key], [_MAX_CLAIMS, _CLAIM_MS])
        claims = [
            Claim(user.decode(), score)
            for user, score in zip(claimed[::2], claimed[1::2], strict=True)
        ]
        return (wait_ms / 1000 if wait_ms >= 0 else float("inf")), claims

    async def release(self, claim: Claim) -> None:
        """Remove a user that was checked, unless it was enqueued again. The check is repeated if
        another instance has removed the user: it may have seen a later change."""
        await self._release([self._key], [claim.user_id, claim.score])

    async def wait_for_connect(self, seconds: float) -> None:
        """Wait until a user connects to this instance, at most for `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._connected.wait()
        except TimeoutError:
            pass
        self._connected.clear()
