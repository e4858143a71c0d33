"""The channels of Redis that this instance hears."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from bff.redis.client import UNAVAILABLE


class PubSubChannels:
    """What should be heard, carried over to each new subscription."""

    def __init__(self, *always: str) -> None:
        self._always = frozenset(always)
        self._wanted = {name: asyncio.Event() for name in always}
        """Each with whether it is heard now."""
        self._unconfirmed: Counter[str] = Counter()
        """What Redis was asked for a channel and has not answered yet, on this subscription."""
        self._pubsub: Any = None

    async def open(self, pubsub: Any) -> None:
        """Hear everything through a new subscription."""
        self._pubsub = pubsub
        self._unconfirmed.update(self._wanted.keys())
        await pubsub.subscribe(*self._wanted)

    def close(self) -> None:
        """The subscription has ended: nothing is heard until the next one."""
        self._pubsub = None
        self._unconfirmed.clear()
        for heard in self._wanted.values():
            heard.clear()

    def confirmed(self, name: str) -> None:
        """Redis has answered what it was asked for a channel.

        Raises:
            ConnectionError: it was not asked. The client library has lost the connection and has
                subscribed anew by itself; what was published in between is missing.
        """
        if not self._unconfirmed[name]:
            raise ConnectionError("Redis has ended the subscription")
        self._unconfirmed[name] -= 1
        if not self._unconfirmed[name]:
            del self._unconfirmed[name]
            if name in self._wanted:
                self._wanted[name].set()

    async def hear(self, name: str) -> None:
        """Add a channel; returns when all that is published from now on is heard.

        While there is no subscription it waits, without a limit of its own.
        """
        heard = self._wanted.get(name)
        if heard is None:
            heard = self._wanted[name] = asyncio.Event()
            if self._pubsub is not None:
                self._unconfirmed[name] += 1
                with suppress(*UNAVAILABLE):  # the relay meets the same error and listens anew
                    await self._pubsub.subscribe(name)
        await heard.wait()

    async def unsubscribe_all_but(self, names: Collection[str]) -> None:
        """Drop every other channel that was added."""
        dropped = self._wanted.keys() - names - self._always
        for name in dropped:
            del self._wanted[name]
        if dropped and self._pubsub is not None:
            self._unconfirmed.update(dropped)
            with suppress(*UNAVAILABLE):
                await self._pubsub.unsubscribe(*dropped)
