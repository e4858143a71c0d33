"""Keeps the sessions of active connections alive, and closes the connections of ended ones."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from itertools import islice
from typing import Final

from bff.auth.revocations import ENDED
from bff.auth.sessions import SessionStore
from bff.connections.close_codes import CloseCode
from bff.realtime.connection_handler import ConnectionHandler
from bff.realtime.handler_manager import HandlerManager
from bff.redis.client import UNAVAILABLE, why

logger = logging.getLogger(__name__)

_BATCH: Final = 500


class SessionCheck:
    """Requests over a socket are activity of its session, as requests over HTTP are.

    Writing that to Redis for each frame would cost a round trip, so it is done every
    `SessionStore.touch_seconds`. A session that was idle for too long has ended in Redis without a
    message; its connections are closed here.
    """

    def __init__(self, handlers: HandlerManager, sessions: SessionStore) -> None:
        self._handlers = handlers
        self._sessions = sessions

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            await asyncio.sleep(self._sessions.touch_seconds)
            try:
                await self.check()
            except UNAVAILABLE as error:
                logger.warning(
                    "could not check sessions: Redis unavailable", extra={"reason": why(error)}
                )

    async def check(self) -> None:
        """Check every session that has a connection here.

        Raises:
            RedisError, OSError, TimeoutError: Redis is unavailable.
        """
        by_session: defaultdict[str, list[ConnectionHandler]] = defaultdict(list)
        for handler in self._handlers:
            if handler.caller.session is not None:
                by_session[handler.caller.session.sid].append(handler)
        sids = iter(by_session)
        while batch := list(islice(sids, _BATCH)):
            await self._check({sid: by_session[sid] for sid in batch})

    async def _check(self, by_session: dict[str, list[ConnectionHandler]]) -> None:
        active = [sid for sid, found in by_session.items() if any(h.is_active for h in found)]
        idle = list(by_session.keys() - set(active))
        # Frames that arrive while Redis is asked count for the next check.
        for sid in active:
            for handler in by_session[sid]:
                handler.is_active = False
        try:
            living = await asyncio.gather(self._sessions.touch(active), self._sessions.alive(idle))
        except UNAVAILABLE:
            for sid in active:
                for handler in by_session[sid]:
                    handler.is_active = True
            raise
        for sid, lives in zip((*active, *idle), (*living[0], *living[1]), strict=True):
            if not lives:
                for handler in by_session[sid]:
                    handler.connection.close(CloseCode.SESSION_ENDED, ENDED)
