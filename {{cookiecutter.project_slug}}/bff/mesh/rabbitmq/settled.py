"""Finds out which acknowledgements RabbitMQ has certainly processed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from bff.mesh.messages import Delivery

_MAX_FUNCTIONS: Final = 50_000
"""How many functions of `on_settled` wait. Beyond it, those of further deliveries are not called,
so what they remove must expire by itself too."""
_SLICE: Final = 20
"""How many of them are called in one iteration of the event loop."""


class AckedDeliveries:
    """The acknowledged deliveries of one channel, until the broker has processed their acks.

    An ack has no reply, and an ack that is lost with the connection leads to a redelivery. But
    RabbitMQ executes the commands of a channel in order. So the reply to a later command proves
    that it has received the ack. We wait for a second reply, one interval later, because a quorum
    queue handles acks in the background. With the connection this object is dropped, and what is
    not proven by then may be delivered again.
    """

    def __init__(self) -> None:
        self._recent: deque[Callable[[], None]] = deque()
        self._older: deque[Callable[[], None]] = deque()

    def add(self, delivery: Delivery) -> None:
        """Note that a delivery was acknowledged on the channel."""
        if delivery.on_settled and len(self._recent) < _MAX_FUNCTIONS:
            self._recent.extend(delivery.on_settled)

    async def command_replied(self) -> None:
        """Note that the broker has replied to a command that was sent on the channel after the
        last call of this method. Calls the functions of the acks that this proves."""
        settled, self._older, self._recent = self._older, self._recent, deque()
        while settled:
            for _ in range(min(_SLICE, len(settled))):
                settled.popleft()()
            await asyncio.sleep(0)
