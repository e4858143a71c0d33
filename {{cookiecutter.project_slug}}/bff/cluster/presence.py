"""Which users are online, and events about changes for those who may watch."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable
from typing import Final, Literal
from urllib.parse import quote

from pydantic import BaseModel

from bff.cluster.context import ClusterContext
from bff.cluster.index import ConnectionDetails, ConnectionIndex
from bff.cluster.messenger import Messenger
from bff.cluster.presence_queue import Claim, PresenceQueue
from bff.cluster.scripts import load
from bff.connections.declared_events import EventType
from bff.names import check_lists, is_topic
from bff.redis.client import UNAVAILABLE, why

logger = logging.getLogger(__name__)

TOPIC_PREFIX: Final = "presence."


class PresenceChange(BaseModel):
    """A user came online, or went offline."""

    type: Literal["user.online", "user.offline"]
    user_id: str


PRESENCE_CHANGED: Final = EventType(f"{TOPIC_PREFIX}#", PresenceChange, stored=True)
_ANNOUNCED_SECONDS: Final = 600
"""Life of the idempotency key of an announcement. It is needed until the number of announcements is
stored, which the next instance does when a claim has expired (`presence_queue.py`)."""


def presence_topic(user_id: str) -> str:
    """The topic of a user's presence events: `presence.` and the user id, percent-encoded as in
    the path of a URL (RFC 3986); if that is too long, the id's SHA-256 in hexadecimal instead."""
    topic = TOPIC_PREFIX + quote(user_id, safe="@:+")
    if is_topic(topic):
        return topic
    return TOPIC_PREFIX + hashlib.sha256(user_id.encode()).hexdigest()


class Presence:
    """Presence is derived from the index, so it stays correct when an instance crashes.

    A user is online while a living instance has a connection of that user. `user.offline` is sent
    when the user had no connection for `PRESENCE_GRACE_SECONDS`, so a reconnect causes no event.
    """

    def __init__(
        self,
        context: ClusterContext,
        index: ConnectionIndex,
        queue: PresenceQueue,
        messenger: Messenger,
    ) -> None:
        self._pipeline = context.pipeline
        self._keys = context.keys
        self._index = index
        self._queue = queue
        self._messenger = messenger.with_key_life(_ANNOUNCED_SECONDS)
        self._save_announced = load(context.pipeline, "presence_announced")
        self._max_wait_seconds = context.settings.lease_renewal_seconds
        self._retention_seconds = context.settings.position_retention_seconds

    async def of(self, user_ids: Iterable[str]) -> dict[str, list[ConnectionDetails]]:
        """The connections of each user on all instances; an empty list for an offline user.

        Raises:
            TypeError: `user_ids` is a string instead of a list.
            RedisError, OSError, TimeoutError: Redis is unavailable.
        """
        check_lists(user_ids=user_ids)
        users = list(dict.fromkeys(user_ids))
        found = await asyncio.gather(*(self._index.connections_of(user_id) for user_id in users))
        return dict(zip(users, found, strict=True))

    async def run(self) -> None:
        """Announce changes until cancelled; none while no client may watch presence."""
        while True:
            wait = self._max_wait_seconds
            if self._queue.watched:
                try:
                    wait = min(wait, await self.announce_due())
                except UNAVAILABLE as error:
                    logger.warning(
                        "could not announce presence, retrying", extra={"reason": why(error)}
                    )
            await self._queue.wait_for_connect(wait)

    async def announce_due(self) -> float:
        """Announce all changes that are due; returns the seconds until the next one is."""
        while True:
            wait, claims = await self._queue.claim()
            if not claims:
                return wait
            await asyncio.gather(*(self._announce(claim) for claim in claims))

    async def _announce(self, claim: Claim) -> None:
        """Idempotent: the number of announced changes is the idempotency key of the next event.

        An odd number means that the user was last announced as online.
        """
        user_id = claim.user_id
        meta = self._keys.user(user_id).meta
        is_online = bool((await self.of([user_id]))[user_id])
        announced = int(await self._pipeline.submit("HGET", meta, "presence") or 0)
        if is_online != bool(announced % 2):
            announced += 1
            change = PresenceChange(
                type="user.online" if is_online else "user.offline", user_id=user_id
            )
            await self._messenger.to_topic(
                presence_topic(user_id),
                PRESENCE_CHANGED(change),
                idempotency_key=str(announced),
            )
            await self._save_announced([meta], [announced, self._retention_seconds])
        await self._queue.release(claim)
