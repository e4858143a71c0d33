"""Moves the connections of a stopping instance to other instances, a few at a time."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass

from bff.connections.close_codes import CloseCode
from bff.connections.registry import ConnectionRegistry
from bff.realtime.connection_handler import ConnectionHandler
from bff.realtime.handler_manager import HandlerManager

logger = logging.getLogger(__name__)

_UNREADY_SECONDS = 3.0
"""The time before the first `drain` frame: `/health/ready` fails already, so that load balancers
send no more clients."""
_WARNING_SECONDS = 1.0
"""The time between `drain` and the close. Requests that were on their way when `drain` was sent are
answered."""
_MAX_INTERVAL_SECONDS = 0.5
"""The longest time between two `drain` frames: with few connections, draining takes less than the
drain time."""
_REQUEST_GRACE_SECONDS = 5.0
"""How long running requests may take after the drain time."""
_INDEX_SECONDS = 0.25
"""The time that the index needs to remove a closed connection. A user at `MAX_CONNECTIONS_PER_USER`
who reconnects earlier would be refused."""
_RECONNECTS_PER_SECOND = 200
"""The reconnects that the other instances together can take in addition to their load: about a
tenth of what one instance did alone in the benchmark."""


@dataclass(frozen=True, slots=True)
class DrainSchedule:
    """How the drain time is divided."""

    unready_seconds: float
    """Before the first `drain` frame."""
    spread_seconds: float
    """Over which `drain` frames are sent, one by one, evenly."""
    warning_seconds: float
    """From a connection's `drain` frame to its close."""
    request_grace_seconds: float
    """For running requests, after the drain time."""

    @classmethod
    def of(cls, seconds: float) -> DrainSchedule:
        """Divide the drain time. A short drain time shortens every part."""
        unready = min(_UNREADY_SECONDS, seconds / 10)
        warning = min(_WARNING_SECONDS, seconds / 10)
        grace = min(_REQUEST_GRACE_SECONDS, seconds)
        return cls(unready, seconds - unready - warning, warning, grace)

    def reconnect_delay(self, connections: int) -> float:
        """Seconds that a client waits after its close, when this many connections are drained.

        The `drain` frames are spread already. If the drain time is too short for that, a random
        delay spreads the reconnects further: their rate is at most twice `_RECONNECTS_PER_SECOND`.
        """
        more = max(0.0, connections / _RECONNECTS_PER_SECOND - self.spread_seconds)
        return _INDEX_SECONDS + random.uniform(0, more)  # noqa: S311


class Draining:
    """Drains this instance. Once begun, it is not ready and accepts no connections.

    Clients that are closed together reconnect together. So connections are drained one by one
    over the drain time: each gets a `drain` frame, the answers to its requests, and the close
    code 4001.
    """

    def __init__(
        self, handlers: HandlerManager, registry: ConnectionRegistry, seconds: float
    ) -> None:
        """`handlers` has one for each connection of `registry`."""
        self.begun = False
        self._handlers = handlers
        self._registry = registry
        self._seconds = seconds
        self._schedule = DrainSchedule.of(seconds)

    async def drain(self) -> None:
        """Drain every connection; returns as soon as none is left.

        Connections that are still open after the drain time and the request grace are closed,
        and so are all when this is cancelled.
        """
        self.begun = True
        loop = asyncio.get_running_loop()
        begun = loop.time()
        logger.info(
            "draining", extra={"connections": len(self._registry), "seconds": self._seconds}
        )
        try:
            async with (
                asyncio.timeout_at(begun + self._seconds + self._schedule.request_grace_seconds),
                asyncio.TaskGroup() as tasks,
            ):
                spread = tasks.create_task(self._drain_one_by_one(begun))
                await self._registry.wait_empty()
                spread.cancel()
        except TimeoutError:
            if self._seconds:
                logger.warning(
                    "drain time is over, closing busy connections",
                    extra={"connections": len(self._registry)},
                )
        finally:
            for connection in self._registry:
                connection.close(CloseCode.DRAIN, "drain")
        logger.info("drained", extra={"seconds": round(loop.time() - begun, 1)})

    async def _drain_one_by_one(self, begun: float) -> None:
        """Repeat until cancelled: a handshake that had begun may succeed during a pass, or when all
        others have their `drain` frame."""
        loop = asyncio.get_running_loop()
        schedule = self._schedule
        await asyncio.sleep(schedule.unready_seconds)
        ends = begun + schedule.unready_seconds + schedule.spread_seconds
        connections = len(self._registry)
        async with asyncio.TaskGroup() as closing:
            while True:
                remaining = [each for each in self._handlers if not each.drain_sent]
                starts = loop.time()
                interval = min(
                    _MAX_INTERVAL_SECONDS, max(0.0, ends - starts) / max(1, len(remaining))
                )
                for number, handler in enumerate(remaining):
                    await asyncio.sleep(starts + number * interval - loop.time())
                    handler.send_drain(round(schedule.reconnect_delay(connections) * 1000))
                    closing.create_task(self._finish(handler))
                if not remaining:
                    await asyncio.sleep(_MAX_INTERVAL_SECONDS)

    async def _finish(self, handler: ConnectionHandler) -> None:
        await asyncio.sleep(self._schedule.warning_seconds)
        await handler.finish()
