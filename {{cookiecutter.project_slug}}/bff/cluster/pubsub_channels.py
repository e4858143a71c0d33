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
        """Subscribe to all channels on a new connection."""
        self._pubsub = pubsub
        self._unconfirmed.update(self._subscribed.keys())
        await pubsub.subscribe(*self._subscribed)

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
            if self._pubsub is not None:
                self._unconfirmed[name] += 1
                with suppress(*UNAVAILABLE):  # the listener gets the same error and reconnects
                    await self._pubsub.subscribe(name)
        await subscribed.wait()

    async def unsubscribe_all_but(self, names: Collection[str]) -> None:
        """Drop all channels except these and the permanent ones."""
        dropped = self._subscribed.keys() - names - self._permanent
        for name in dropped:
            del self._subscribed[name]
        if dropped and self._pubsub is not None:
            self._unconfirmed.update(dropped)
            with suppress(*UNAVAILABLE):
                await self._pubsub.unsubscribe(*dropped)
