"""The pub/sub channels to which this instance is subscribed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from bff.redis.client import UNAVAILABLE


class PubSubChannels:
    """The channels that this instance needs; each new pub/sub connection subscribes to them."""

    def __init__(self, *permanent: str) -> None:
        self._permanent = frozenset(permanent)
        self._subscribed = {name: asyncio.Event() for name in permanent}
        """All needed channels. The event is set while Redis has confirmed the subscription."""
        self._unconfirmed: Counter[str] = Counter()
        """How many requests per channel Redis has not confirmed yet, on this connection."""
        self._pubsub: Any = None

    async def open(self, pubsub: Any) -> None:
        """Subscribe to all channels on a new connection, also to those that are added meanwhile.

        Other tasks use the `PubSub` afterwards. redis-py would open a connection for each request
        that comes before it has one, and keep only the last of them.
        """
        requested: set[str] = set()
        while requested != (needed := set(self._subscribed)):
            if added := needed - requested:
                self._unconfirmed.update(added)
                await pubsub.subscribe(*added)
            if dropped := requested - needed:
                self._unconfirmed.update(dropped)
                await pubsub.unsubscribe(*dropped)
            requested = needed
        self._pubsub = pubsub

    def close(self) -> None:
        """The connection is lost, and with it all subscriptions."""
        self._pubsub = None
        self._unconfirmed.clear()
        for subscribed in self._subscribed.values():
            subscribed.clear()

    def on_confirmed(self, name: str) -> None:
        """Redis has confirmed a (un)subscribe request for a channel.

        Raises:
            ConnectionError: there was no such request. redis-py has lost the connection and has
                subscribed again by itself; messages published in between are missing.
        """
        if not self._unconfirmed[name]:
            raise ConnectionError("Redis has ended the subscription")
        self._unconfirmed[name] -= 1
        if not self._unconfirmed[name]:
            del self._unconfirmed[name]
            if name in self._subscribed:
                self._subscribed[name].set()

    async def subscribe(self, name: str) -> None:
        """Add a channel; returns when all messages published from now on are received.

        While there is no connection it waits; callers set their own timeout.
        """
        subscribed = self._subscribed.get(name)
        if subscribed is None:
            subscribed = self._subscribed[name] = asyncio.Event()
            if (pubsub := self._connected) is not None:
                self._unconfirmed[name] += 1
                with suppress(*UNAVAILABLE):  # the listener gets the same error and reconnects
                    await pubsub.subscribe(name)
        await subscribed.wait()

    async def unsubscribe_all_but(self, names: Collection[str]) -> None:
        """Drop all channels except these and the permanent ones."""
        dropped = self._subscribed.keys() - names - self._permanent
        for name in dropped:
            del self._subscribed[name]
        if dropped and (pubsub := self._connected) is not None:
            self._unconfirmed.update(dropped)
            with suppress(*UNAVAILABLE):
                await pubsub.unsubscribe(*dropped)

    @property
    def _connected(self) -> Any:
        """The `PubSub` to send a request with; None without a connection. redis-py would connect
        again for the request, at the same time as the listener, which then opens another one."""
        connection = self._pubsub and self._pubsub.connection
        return self._pubsub if connection and connection.is_connected else None
