"""The names of the event handlers of all versions of the app, in Redis."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable
from typing import Final

from bff.cluster.keys import Keys
from bff.redis.client import UNAVAILABLE
from bff.redis.pipeline import AutoPipeline

_RECORD_SECONDS: Final = 3600.0
_RETRY_SECONDS: Final = 10.0
_KEPT_SECONDS: Final = 14 * 24 * 3600
"""RabbitMQ deletes a queue that had no consumer for seven days."""


class EventHandlerNames:
    """Remembers the names, so that `bff doctor` can find the queues that no handler owns any more.

    AMQP has no method that lists queues.
    """

    def __init__(self, pipeline: AutoPipeline, keys: Keys) -> None:
        self._pipeline = pipeline
        self._key = keys.event_handlers

    async def run(self, names: Collection[str]) -> None:
        """Record the names of this version each hour, until cancelled."""
        while True:
            try:
                await self.record(names)
                await asyncio.sleep(_RECORD_SECONDS)
            except UNAVAILABLE:  # the lease renewal logs it
                await asyncio.sleep(_RETRY_SECONDS)

    async def record(self, names: Iterable[str]) -> None:
        """Record names, and forget those that no version has recorded for two weeks.

        Raises:
            RedisError, OSError, TimeoutError: Redis is unavailable.
        """
        now = int(time.time())
        scores = [part for name in names for part in (now, name)]
        if scores:
            await self._pipeline.submit("ZADD", self._key, *scores)
            await self._pipeline.submit("EXPIRE", self._key, _KEPT_SECONDS)
        await self._pipeline.submit("ZREMRANGEBYSCORE", self._key, 0, now - _KEPT_SECONDS)

    async def all(self) -> set[str]:
        """The names of all versions of the last two weeks.

        Raises:
            RedisError, OSError, TimeoutError: Redis is unavailable.
        """
        names: list[bytes] = await self._pipeline.submit("ZRANGE", self._key, 0, -1)
        return {name.decode() for name in names}
