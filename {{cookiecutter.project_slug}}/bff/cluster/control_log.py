"""Control messages that end something. Redis keeps them for instances that did not receive them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from bff.cluster.context import ClusterContext
from bff.cluster.envelopes import Kind, envelope
from bff.cluster.scripts import load

logger = logging.getLogger(__name__)

_MAX_KEPT: Final = 10_000
_KEPT_SECONDS: Final = 24 * 3600
_LATE_READS: Final = 4
"""How many reads later pub/sub may still deliver a message. There is a read for each probe, and
after three probes that do not arrive the subscription is renewed."""


class ControlLog:
    """Closes connections and ends subscriptions, also when a publish was lost.

    A control message is published to all instances, and stored in a stream of Redis. Each instance
    reads that stream every few seconds, and applies the messages that pub/sub did not deliver. A
    message that is applied late also closes connections that were opened after it was sent.
    """

    def __init__(self, context: ClusterContext) -> None:
        self._keys = context.keys
        self._publish = load(context.pipeline, "control")
        self._read = load(context.pipeline, "control_log")
        self._next_id = ""
        """The id that the next read begins with; empty before the first one."""
        self._received: set[str] = set()
        """Ids that pub/sub has delivered, but that were not yet read from the stream."""
        self._applied: deque[frozenset[str]] = deque(maxlen=_LATE_READS)
        """Ids of what each of the last reads has applied. Pub/sub may still deliver them."""

    def publish(self, text: str) -> asyncio.Future[Any]:
        """Send a control message to all instances."""
        channel, start = self._keys.all_channel, envelope(Kind.LOGGED, "")
        return self._publish(
            [self._keys.control_log], [channel, start, text, _MAX_KEPT, _KEPT_SECONDS]
        )

    def on_received(self, message_id: str) -> bool:
        """Remember that pub/sub delivered this message. Returns whether to apply it: False if that
        was done already."""
        self._received.add(message_id)
        return not any(message_id in applied for applied in self._applied)

    async def apply_missed(self, apply: Callable[[bytes], None]) -> None:
        """Read what was sent since the last read, and apply what was not received.

        Raises:
            RedisError, OSError, TimeoutError: Redis is unavailable.
        """
        first, *rest = await self._read([self._keys.control_log], [self._next_id])
        self._next_id = first.decode()
        missed = set()
        for message_id, text in zip(rest[::2], rest[1::2], strict=True):
            if message_id.decode() not in self._received:
                logger.warning(
                    "control message missed by pub/sub, applied now",
                    extra={"id": message_id.decode()},
                )
                apply(text)
                missed.add(message_id.decode())
        self._applied.append(frozenset(missed))
        unread = _order(self._next_id)
        self._received = {one for one in self._received if _order(one) >= unread}


def _order(message_id: str) -> tuple[int, ...]:
    return tuple(map(int, message_id.split("-")))
