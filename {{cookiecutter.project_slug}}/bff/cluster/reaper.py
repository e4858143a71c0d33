"""Removes what dead instances left in the index."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Final

from bff.cluster.context import ClusterContext
from bff.cluster.presence_queue import PresenceQueue
from bff.cluster.scripts import load

logger = logging.getLogger(__name__)

_BATCH: Final = 500


class Reaper:
    """Removes the entries of `<instance>#<generation>`, and of no other generation.

    Every step is idempotent, so several instances may reap the same one at the same time.
    """

    def __init__(self, context: ClusterContext, presence: PresenceQueue) -> None:
        self._redis = context.redis
        self._pipeline = context.pipeline
        self._keys = context.keys
        self._metrics = context.metrics
        self._presence = presence
        self._reap = load(context.pipeline, "reap")

    async def reap_expired(self, members: Iterable[str]) -> None:
        """Reap every `<instance>#<generation>` whose lease has expired."""
        for member in members:
            logger.warning("reaping instance: its lease has expired", extra={"instance": member})
            await self.reap(member)

    async def reap(self, member: str) -> None:
        """Remove all entries of an `<instance>#<generation>`, then its lease."""
        users_key = self._keys.users_of(member)
        batch: list[str] = []
        async for user_id in self._redis.sscan_iter(users_key, count=_BATCH):
            batch.append(user_id.decode())
            if len(batch) == _BATCH:
                await self._reap_users(batch, member)
                batch.clear()
        await self._reap_users(batch, member)
        await self._redis.delete(users_key)
        await self._redis.hdel(self._keys.lease_facts, member)
        await self._redis.zrem(self._keys.leases, member)

    async def _reap_users(self, users: list[str], member: str) -> None:
        keys = [self._keys.connections(user_id) for user_id in users]
        removed = await asyncio.gather(*(self._reap([key], [member]) for key in keys))
        await self._presence.on_disconnected(users)
        self._metrics.entries_reaped.inc(sum(removed))

    async def remove_dead_entries(self, user_id: str) -> None:
        """Remove a user's entries that no lease covers, expired or not."""
        key = self._keys.connections(user_id)
        entries = await self._pipeline.read_hash(key)
        for member in {value.split(b" ", 1)[0] for value in entries.values()}:
            score = await self._pipeline.submit("ZSCORE", self._keys.leases, member)
            if score is None and await self._reap([key], [member]):
                await self._presence.on_disconnected([user_id])
