"""Control messages that end something. Redis keeps them for instances that did not receive them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from bff.cluster.context import ClusterContext
from bff.cluster.envelopes import Kind, envelope
from bff.cluster.scripts import load

logger = logging.getLogger(__name__)

_MAX_KEPT: Final = 10_000
_KEPT_SECONDS: Final = 24 * 3600


class Revocations:
    """Closes connections and ends subscriptions, also when a publish was lost.

    A revocation is published to all instances, and stored in a stream of Redis. Each instance reads
    that stream every few seconds, and carries out what it has not received. Then it also closes
    connections that were opened since the revocation.
    """

    def __init__(self, context: ClusterContext) -> None:
        self._keys = context.keys
        self._revoke = load(context.pipeline, "revoke")
        self._read = load(context.pipeline, "revocations")
        self._next_id = ""
        """The id that the next read begins with; empty before the first one."""
        self._received: set[str] = set()
        """The ids that were received, and not read yet."""

    def publish(self, text: str) -> asyncio.Future[Any]:
        """Send a control message to all instances."""
        channel, start = self._keys.all_channel, envelope(Kind.REVOCATION, "")
        return self._revoke(
            [self._keys.revocations], [channel, start, text, _MAX_KEPT, _KEPT_SECONDS]
        )

    def on_received(self, revocation_id: str) -> None:
        """A revocation was received and is carried out."""
        self._received.add(revocation_id)

    async def carry_out_missed(self, carry_out: Callable[[bytes], None]) -> None:
        """Read what was sent since the last read, and carry out what was not received.

        Raises:
            RedisError, OSError, TimeoutError: Redis is unavailable.
        """
        first, *rest = await self._read([self._keys.revocations], [self._next_id])
        self._next_id = first.decode()
        for revocation_id, text in zip(rest[::2], rest[1::2], strict=True):
            if revocation_id.decode() not in self._received:
                logger.warning(
                    "missed revocation carried out", extra={"revocation": revocation_id.decode()}
                )
                carry_out(text)
        unread = _order(self._next_id)
        self._received = {one for one in self._received if _order(one) >= unread}


def _order(revocation_id: str) -> tuple[int, ...]:
    return tuple(map(int, revocation_id.split("-")))
