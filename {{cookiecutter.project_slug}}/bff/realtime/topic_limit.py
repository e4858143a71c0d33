"""Limits the keys in Redis that a user can make by subscribing to topics."""

from __future__ import annotations

from collections.abc import Iterable

from bff.connections.registry import ConnectionRegistry
from bff.errors import Code, Problem
from bff.realtime.limits import TokenBuckets
from bff.settings import Settings


class TopicLimit:
    """Browsers choose topics, and each topic has a key in Redis for a time.

    A user may subscribe to as many topics at once as all connections of the user can have, and to
    as many again while such a key lives. Topics that have a subscriber on this instance do not
    count: their key exists.
    """

    def __init__(self, settings: Settings, registry: ConnectionRegistry) -> None:
        most = settings.max_connections_per_user * settings.max_topics_per_connection
        self._most = most
        self._registry = registry
        self._buckets = TokenBuckets(most / settings.unused_topic_seconds, most)

    def take(self, user_id: str, topics: Iterable[str]) -> None:
        """Take these topics from what a user may subscribe to now. More than all connections of the
        user can have are not taken: `Subscriptions` forbids them, and waiting would not help.

        Raises:
            Problem: `rate_limited`, with the time until these topics are accepted.
        """
        new = sum(not self._registry.has_subscriber(topic) for topic in topics)
        if 0 < new <= self._most and (seconds := self._buckets.take(user_id, new)):
            raise Problem(Code.RATE_LIMITED, "Too many topics: wait", retry_after_seconds=seconds)
