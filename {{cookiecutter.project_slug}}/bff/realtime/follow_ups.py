"""Background work after the browser has stopped waiting for a mesh call: late replies are stored,
and cancellations are reported to the service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from pydantic import BaseModel

from bff.backoff import backoff_delays
from bff.connections.declared_events import EventType
from bff.connections.messages import Event
from bff.errors import Code, ErrorObject, Outcome, Problem
from bff.realtime.injection import HandlerDependencies
from bff.redis.client import UNAVAILABLE, why
from bff.tasks import TaskSet


class LateResult(BaseModel):
    """A reply that arrived after the request's timeout, or after its connection closed."""

    trace_id: str
    """The trace id of the browser's request."""
    result: Any
    error: ErrorObject | None


LATE_REPLY = EventType("result", LateResult, stored=True)
LATE_REPLY_TOPIC = LATE_REPLY.name
"""The name of the event that holds a late reply."""
MAX_NOTIFICATIONS = 100
"""Commands about cancelled calls that are sent concurrently. Further ones wait for at most
`_NOTIFY_SECONDS`."""
_NOTIFY_SECONDS = 5.0
"""How long a cancelled call may take to be reported to its service."""
_SUMMARY_SECONDS = 1.0
"""Failures within this time become one log line."""
_STOP_SECONDS = 5.0
"""How long a stopping instance waits for its follow-ups."""

logger = logging.getLogger(__name__)


class FollowUps:
    """The background tasks that outlive their mesh call."""

    def __init__(self, dependencies: HandlerDependencies) -> None:
        self.messenger = dependencies.messenger
        self.settings = dependencies.settings
        self._mesh = dependencies.mesh
        self._late_replies = TaskSet("late reply")
        self._notifications = TaskSet("notification of a cancelled call")
        self._notifying = asyncio.Semaphore(MAX_NOTIFICATIONS)
        self._dropped = _Summary(logging.ERROR, "late replies dropped: too many at once")
        self.not_stored = _Summary(logging.WARNING, "late reply not stored, retrying")
        self._not_notified = _Summary(
            logging.WARNING, "could not notify services of cancelled calls"
        )

    def store(self, work: Coroutine[Any, Any, None]) -> None:
        """Store one late reply in the background, or drop it when too many are being stored."""
        if len(self._late_replies) >= self.settings.max_pending_requests:
            self._dropped.add(limit=self.settings.max_pending_requests)
            work.close()
            return
        self._late_replies.start(work)

    def cancelled(self, service: str, cancel_method: str, user_id: str, trace_id: str) -> None:
        """Report a cancelled call to its service in the background, within 5 s. `trace_id` is that
        of the mesh call. When too many reports wait, it is not reported."""
        if len(self._notifications) >= self.settings.max_pending_requests:
            reason = "too many at once"
            self._not_notified.add(service=service, method=cancel_method, reason=reason)
            return
        self._notifications.start(self.notify_cancelled(service, cancel_method, user_id, trace_id))

    async def notify_cancelled(
        self, service: str, cancel_method: str, user_id: str, trace_id: str
    ) -> None:
        """Report a cancelled call to its service, without a token, and at most once."""
        try:
            async with asyncio.timeout(_NOTIFY_SECONDS), self._notifying:
                await self._mesh.command(
                    service,
                    cancel_method,
                    {"trace_id": trace_id},
                    context={"user_id": user_id},
                    timeout=_NOTIFY_SECONDS,
                )
        except (Problem, TimeoutError) as error:
            reason = str(error) or "not sent in time"
            self._not_notified.add(service=service, method=cancel_method, reason=reason)

    async def stop(self) -> None:
        """Wait up to 5 s for the tasks, then cancel them. Stop the mesh client first: when it
        stops, it passes the calls that still wait to `LateReply`."""
        await asyncio.gather(
            self._notifications.stop(wait_seconds=_STOP_SECONDS),
            self._late_replies.stop(wait_seconds=_STOP_SECONDS),
        )
        for summary in (self._not_notified, self._dropped, self.not_stored):
            summary.log()


class _Summary:
    """Combines similar failures in one log line: their number, and the fields of the last one."""

    def __init__(self, level: int, message: str) -> None:
        self._level, self._message = level, message
        self._count = 0
        self._fields: dict[str, Any] = {}

    def add(self, **fields: Any) -> None:
        """Count one case. It is logged within a second."""
        self._count += 1
        self._fields = fields
        if self._count == 1:
            asyncio.get_running_loop().call_later(_SUMMARY_SECONDS, self.log)

    def log(self) -> None:
        """Log what has been counted."""
        if self._count:
            logger.log(self._level, self._message, extra={"count": self._count, **self._fields})
            self._count = 0


class LateReply:
    """Stores the reply to one call in the user's stream if it arrives after the browser has stopped
    waiting.

    `MeshClient.request` calls it with the result or the problem.
    """

    __slots__ = ("_browser_trace_id", "_follow_ups", "_mesh_trace_id", "_user_id", "discard")

    def __init__(
        self, follow_ups: FollowUps, user_id: str, browser_trace_id: str, mesh_trace_id: str
    ) -> None:
        self._follow_ups = follow_ups
        self._user_id = user_id
        self._browser_trace_id = browser_trace_id
        self._mesh_trace_id = mesh_trace_id
        self.discard = False
        """Set when the browser cancelled the call: the reply is not stored."""

    def __call__(self, result: Any, problem: Problem | None) -> None:
        if not self.discard:
            self._follow_ups.store(self._store(result, problem))

    async def _store(self, result: Any, problem: Problem | None) -> None:
        """Retry until Redis has stored the reply, at most for `KEEP_RESULT_SECONDS`."""
        if self.discard:
            return
        settings = self._follow_ups.settings
        # The idempotency key must outlive all retries, and one that is being sent at the end.
        key_seconds = int(settings.keep_result_seconds) + 60
        messenger = self._follow_ups.messenger.with_key_life(key_seconds)
        event = self._event(result, problem)
        if (reason := _not_deliverable(event, settings.max_queue_bytes)) is not None:
            outcome = Outcome.DONE if problem is None else problem.outcome
            event = self._event(None, Problem(Code.SERVICE_ERROR, reason, outcome=outcome))
        try:
            async with asyncio.timeout(settings.keep_result_seconds):
                for delay in backoff_delays(0.2, 5):
                    try:
                        await messenger.to_user(
                            self._user_id,
                            LATE_REPLY_TOPIC,
                            event,
                            idempotency_key=f"result/{self._mesh_trace_id}",
                        )
                        return
                    except UNAVAILABLE as error:
                        not_stored = self._follow_ups.not_stored
                        not_stored.add(trace_id=self._mesh_trace_id, reason=why(error))
                        await asyncio.sleep(delay)
        except TimeoutError:
            logger.error(
                "late reply lost: Redis unavailable",
                extra={"trace_id": self._mesh_trace_id, "user": self._user_id},
            )

    def _event(self, result: Any, problem: Problem | None) -> dict[str, Any]:
        return {
            "trace_id": self._browser_trace_id,
            "result": result,
            "error": problem and problem.as_error(),
        }


def _not_deliverable(event: dict[str, Any], max_bytes: int) -> str | None:
    """Why a browser cannot get this event, or None. JSON is encoded up to 254 levels deep, and the
    size is the one that `Messenger` checks."""
    try:
        size = len(Event(LATE_REPLY_TOPIC, event).encode_start("user"))
    except Problem:
        return "The reply is nested too deeply"
    return "The reply is too large" if size > max_bytes else None
