"""Leaving without taking anybody by surprise."""

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

_NOTICE = 3.0
"""Seconds in which only `/health/ready` says it, so that a proxy sends nobody back here."""
_WARNING = 1.0
"""Seconds between a socket's `drain` and its close: what it sent before it knew is answered."""
_LONGEST_PAUSE = 0.5
"""Seconds between two turns: few sockets need not take all of the drain time."""
_REQUESTS = 5.0
"""Seconds that requests still have when the drain time is over."""
_FORGOTTEN = 0.25
"""Seconds after a close in which the index forgets the socket: before, a user with as many as are
allowed would be refused."""
_RECONNECTS_PER_SECOND = 200
"""What the other instances can take besides their work: about a tenth of what one of them did
alone in the benchmark."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How the drain time is spent."""

    notice: float
    """Seconds before the first socket is told."""
    turns: float
    """Seconds over which sockets are told, evenly, one after the other."""
    warning: float
    """Seconds from a socket's `drain` to its close."""
    requests: float
    """Seconds that requests have beyond the drain time."""

    @classmethod
    def of(cls, seconds: float) -> Plan:
        """A drain time too short for all of it is shared out; of none, nothing is left."""
        notice = min(_NOTICE, seconds / 10)
        warning = min(_WARNING, seconds / 10)
        return cls(notice, seconds - notice - warning, warning, min(_REQUESTS, seconds))

    def reconnect_after(self, sockets: int) -> float:
        """Seconds that one of so many sockets waits after its close, at random.

        Turns spread the sockets already. What the drain time is too short for, pauses must spread.
        """
        spread = max(0.0, sockets / _RECONNECTS_PER_SECOND - self.turns)
        return _FORGOTTEN + random.uniform(0, spread)  # noqa: S311


class Draining:
    """Once begun, the instance is not ready any more and lets no socket in.

    Sockets are then sent elsewhere one by one, evenly over the drain time, because those who leave
    together come back together. Each is warned by `drain`, has the requests answered that it sent
    until then, and is closed with 4001.
    """

    def __init__(
        self, handlers: HandlerManager, registry: ConnectionRegistry, seconds: float
    ) -> None:
        self.begun = False
        self._handlers = handlers
        self._registry = registry
        self._seconds = seconds
        self._plan = Plan.of(seconds)

    async def drain(self) -> None:
        """Send every socket elsewhere.

        Returns as soon as none is left. Whoever is left a little after the drain time is closed
        without further ado, and so is everybody when this is cancelled.
        """
        self.begun = True
        loop = asyncio.get_running_loop()
        begun = loop.time()
        logger.info("draining %d sockets within %g s", len(self._registry), self._seconds)
        try:
            async with (
                asyncio.timeout_at(begun + self._seconds + self._plan.requests),
                asyncio.TaskGroup() as tasks,
            ):
                turns = tasks.create_task(self._take_turns(begun))
                await self._registry.emptied()
                turns.cancel()
        except TimeoutError:
            if self._seconds:
                logger.warning("%d sockets were still busy", len(self._registry))
        finally:
            for connection in self._registry:
                connection.close(CloseCode.DRAIN, "drain")
        logger.info("drained in %.1f s", loop.time() - begun)

    async def _take_turns(self, begun: float) -> None:
        """Give every socket its turn; those that were just being let in come last."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._plan.notice)
        ends = begun + self._plan.notice + self._plan.turns
        sockets = len(self._registry)
        async with asyncio.TaskGroup() as leaving:
            while waiting := [each for each in self._handlers if not each.warned]:
                starts = loop.time()
                pause = min(_LONGEST_PAUSE, max(0.0, ends - starts) / len(waiting))
                for number, handler in enumerate(waiting):
                    await asyncio.sleep(starts + number * pause - loop.time())
                    handler.warn(round(self._plan.reconnect_after(sockets) * 1000))
                    leaving.create_task(self._finish(handler))

    async def _finish(self, handler: ConnectionHandler) -> None:
        await asyncio.sleep(self._plan.warning)
        await handler.finish()
