"""Work that is left when a mesh call has ended for the browser: late replies, cancellations."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from bff.backoff import backoff_delays
from bff.connections.frames import encode
from bff.errors import Code, Outcome, Problem
from bff.realtime.injection import HandlerDependencies
from bff.redis.client import UNAVAILABLE, why
from bff.tasks import TaskSet

LATE_REPLY_TOPIC = "result"
"""The topic of the event that holds a late reply."""
MAX_FOLLOW_UPS = 1_000
"""Follow-ups that may run at once on this instance. More are dropped."""
_NOTIFY_SECONDS = 5.0
"""The timeout of the command that reports a cancelled call to its service."""
_STOP_SECONDS = 5.0
"""How long a stopping instance waits for its follow-ups."""

logger = logging.getLogger(__name__)


class FollowUps:
    """The background tasks that outlive their mesh call."""

    def __init__(self, dependencies: HandlerDependencies) -> None:
        self.messenger = dependencies.messenger
        self.settings = dependencies.settings
        self._mesh = dependencies.mesh
        self._tasks = TaskSet("mesh call follow-up")

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run one follow-up in the background, or drop it when too many run."""
        if len(self._tasks) >= MAX_FOLLOW_UPS:
            logger.error("follow-up dropped: too many run", extra={"limit": MAX_FOLLOW_UPS})
            work.close()
            return
        self._tasks.start(work)

    async def notify_cancelled(
        self, service: str, cancel_method: str, user_id: str, trace_id: str
    ) -> None:
        """Report a cancelled call to its service: once, without a token, and at most once."""
        try:
            await self._mesh.command(
                service,
                cancel_method,
                {"trace_id": trace_id},
                context={"user_id": user_id},
                timeout=_NOTIFY_SECONDS,
            )
        except Problem as problem:
            logger.info(
                "could not notify service of cancelled call",
                extra={
                    "service": service,
                    "method": cancel_method,
                    "trace_id": trace_id,
                    "reason": str(problem),
                },
            )

    async def stop(self) -> None:
        """Wait up to 5 s for the follow-ups, then cancel them. Stop the mesh first."""
        await self._tasks.stop(wait_seconds=_STOP_SECONDS)


class LateReply:
    """Stores the reply to one call in the user's stream if it comes after the browser's wait.

    `MeshClient.request` calls it with the result or the problem.
    """

    __slots__ = ("_browser_trace_id", "_follow_ups", "_trace_id", "_user_id", "discard")

    def __init__(
        self, follow_ups: FollowUps, user_id: str, browser_trace_id: str, trace_id: str
    ) -> None:
        self._follow_ups = follow_ups
        self._user_id = user_id
        self._browser_trace_id = browser_trace_id
        self._trace_id = trace_id
        self.discard = False
        """Set when the browser cancelled the call: the reply is not stored."""

    def __call__(self, result: Any, problem: Problem | None) -> None:
        if not self.discard:
            self._follow_ups.start(self._store(result, problem))

    async def _store(self, result: Any, problem: Problem | None) -> None:
        """Retry until Redis has stored the reply, at most for `KEEP_RESULT_SECONDS`."""
        messenger, settings = self._follow_ups.messenger, self._follow_ups.settings
        event = {"result": result, "error": problem and problem.as_error()}
        if len(encode(event)) > settings.max_queue_bytes:
            too_large = Problem(Code.SERVICE_ERROR, "The result is too large", outcome=Outcome.DONE)
            event = {"result": None, "error": too_large.as_error()}
        event = {"trace_id": self._browser_trace_id, **event}
        try:
            async with asyncio.timeout(settings.keep_result_seconds):
                for delay in backoff_delays(0.2, 5):
                    try:
                        await messenger.to_user(
                            self._user_id,
                            LATE_REPLY_TOPIC,
                            event,
                            idempotency_key=f"result/{self._trace_id}",
                        )
                        return
                    except UNAVAILABLE as error:
                        logger.warning(
                            "late reply not stored, retrying",
                            extra={"trace_id": self._trace_id, "reason": why(error)},
                        )
                        await asyncio.sleep(delay)
        except TimeoutError:
            logger.error(
                "late reply lost: Redis unavailable",
                extra={"trace_id": self._trace_id, "user": self._user_id},
            )
