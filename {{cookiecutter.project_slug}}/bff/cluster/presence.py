"""Who is online and where, and the word about it to whoever may watch."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable
from typing import Final
from urllib.parse import quote

from bff.cluster.index import ConnectionFacts, ConnectionIndex
from bff.cluster.keys import Keys
from bff.cluster.messenger import Messenger
from bff.cluster.presence_queue import Change, PresenceQueue
from bff.cluster.scripts import load
from bff.connections.positions import TOPIC
from bff.redis.client import UNAVAILABLE
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings

logger = logging.getLogger(__name__)

TOPIC_PREFIX: Final = "presence."


def presence_topic(user_id: str) -> str:
    """The topic of a user's comings and goings: the id is quoted as in a URL's path; what is too
    long for a topic then is its SHA-256 instead."""
    topic = TOPIC_PREFIX + quote(user_id, safe="@:+")
    if TOPIC.fullmatch(topic):
        return topic
    return TOPIC_PREFIX + hashlib.sha256(user_id.encode()).hexdigest()


class Presence:
    """Told by the index alone: no process has to live for somebody to be taken for offline.

    A user is online while a living instance holds a connection of his. Going offline is told when
    he was away for `PRESENCE_GRACE_SECONDS`, so that a reconnect is none; it needs no word from the
    instance that held him.
    """

    def __init__(
        self,
        pipeline: AutoPipeline,
        index: ConnectionIndex,
        queue: PresenceQueue,
        messenger: Messenger,
        settings: Settings,
    ) -> None:
        self._pipeline = pipeline
        self._index = index
        self._queue = queue
        self._messenger = messenger
        self._told = load(pipeline, "presence_announced")
        self._look_every = settings.lease_renewal_seconds
        self._position_seconds = settings.position_retention_seconds
        self._keys = Keys(settings.prefix)

    async def of(self, user_ids: Iterable[str]) -> dict[str, list[ConnectionFacts]]:
        """The connections of each user, on whatever instance; none for who is offline.

        Raises:
            RedisError, OSError, TimeoutError: Redis cannot be asked.
        """
        users = list(dict.fromkeys(user_ids))
        found = await asyncio.gather(*(self._index.connections_of(user_id) for user_id in users))
        return dict(zip(users, found, strict=True))

    async def run(self) -> None:
        """Tell of changes, for ever. With nobody to watch there are none."""
        while True:
            wait = self._look_every
            if self._queue.watched:
                try:
                    wait = min(wait, await self.tell())
                except UNAVAILABLE as error:
                    logger.warning("presence waits, Redis: %s: %s", type(error).__name__, error)
            await self._queue.called(within=wait)

    async def tell(self) -> float:
        """Tell of all changes that are due; returns the seconds until the next is."""
        while True:
            wait, changes = await self._queue.take()
            if not changes:
                return wait
            await asyncio.gather(*(self._tell_of(change) for change in changes))

    async def _tell_of(self, change: Change) -> None:
        """Told by two instances it counts once; by one that ends in the middle, again elsewhere.

        The number of changes is the idempotency key, and its last bit is what watchers know.
        """
        user_id = change.user_id
        meta = self._keys.user(user_id).meta
        is_online = bool((await self.of([user_id]))[user_id])
        told = int(await self._pipeline.submit("HGET", meta, "presence") or 0)
        if is_online != bool(told % 2):
            event = {"type": "user.online" if is_online else "user.offline", "user_id": user_id}
            topic = presence_topic(user_id)
            await self._messenger.to_topic(topic, event, idempotency_key=str(told + 1))
            await self._told([meta], [told + 1, self._position_seconds])
        await self._queue.settle(change)
