"""Asks the app again whether connected users are still allowed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from bff.audit.log import AuditLog
from bff.auth.caller import Caller
from bff.cluster.revocations import Revocations
from bff.realtime.handler_manager import HandlerManager
from bff.redis.client import why
from bff.settings import Settings

logger = logging.getLogger(__name__)

StillAllowed = Callable[[Caller], Awaitable[bool]]
"""The app's decision about a user who is connected: whether the user may stay."""

_BATCH: Final = 20
"""Users whom the app is asked about at the same time."""
_SECONDS: Final = 10.0
"""How long the app may take for one user."""


class UserCheck:
    """A connection can outlive the reason for which it was allowed: a token or a session lives for
    hours. So the app is asked about every user with a connection here, once in
    `USER_CHECK_SECONDS`, spread over that time; later if the app takes longer to answer. A user who
    is not allowed any more is revoked.
    """

    def __init__(
        self,
        still_allowed: StillAllowed,
        handlers: HandlerManager,
        revocations: Revocations,
        audit: AuditLog,
        settings: Settings,
    ) -> None:
        self._still_allowed = still_allowed
        self._handlers = handlers
        self._revocations = revocations
        self._audit = audit
        self._round_seconds = settings.user_check_seconds / 2
        """A user who connects during a round is asked about in the next one."""

    async def run(self) -> None:
        """Check until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            callers = {handler.caller.user_id: handler.caller for handler in self._handlers}
            users = list(callers.values())
            batches = [users[start : start + _BATCH] for start in range(0, len(users), _BATCH)]
            for batch in batches or [[]]:
                due = max(due + self._round_seconds / max(1, len(batches)), loop.time())
                await asyncio.sleep(due - loop.time())
                await asyncio.gather(*(self._check(caller) for caller in batch))

    async def _check(self, caller: Caller) -> None:
        """A check that fails decides nothing: the user stays, and is checked again later."""
        try:
            async with asyncio.timeout(_SECONDS):
                if await self._still_allowed(caller):
                    return
            await self._revocations.revoke_user(caller.user_id)
        except Exception as error:
            logger.warning(
                "could not check user", extra={"user": caller.user_id, "reason": why(error)}
            )
        else:
            self._audit.record("user_revoked", user=caller.user_id, reason="no longer allowed")
