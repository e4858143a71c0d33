"""Leaving without taking anybody by surprise."""

from __future__ import annotations

import asyncio
import random

from app.connections.close_codes import CloseCode
from app.connections.messages import Drain
from app.connections.registry import ConnectionRegistry

_SPREAD_MS = 2000


class Draining:
    """Once begun, the instance is not ready any more and lets no socket in."""

    def __init__(self, registry: ConnectionRegistry, seconds: float) -> None:
        self.begun = False
        self._registry = registry
        self._seconds = seconds

    async def drain(self) -> None:
        """Send every socket elsewhere, and wait until they are gone, or for the drain time."""
        self.begun = True
        for connection in self._registry:
            connection.send(Drain(random.randrange(_SPREAD_MS)))  # noqa: S311
            connection.close(CloseCode.DRAIN, "drain")
        try:
            async with asyncio.timeout(self._seconds):
                await self._registry.emptied()
        except TimeoutError:
            pass
