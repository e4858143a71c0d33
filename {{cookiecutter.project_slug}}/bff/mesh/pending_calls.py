"""Calls that wait for their reply, within bounds, and those that do so no more."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from bff.errors import Code, Outcome, Problem
from bff.mesh.messages import Message, Reply
from bff.settings import MeshSettings
from bff.telemetry.metrics import Metrics

UNKNOWN_SERVICE = "unknown"
"""The label of services that were never reached: no caller can make up labels."""
MAX_ENDED = 10_000
"""So many ended calls are remembered, to tell whose a late reply is."""

Late = Callable[[Reply | Problem], None]
"""Is given the reply that came after its caller had gone, or why none will come."""


@dataclass(slots=True)
class _Kept:
    """A call whose reply is still wanted."""

    message: Message
    late: Late
    timer: asyncio.TimerHandle


class PendingCalls:
    """Pairs replies with calls by correlation id."""

    def __init__(self, settings: MeshSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._replies: dict[str, tuple[Message, asyncio.Future[Reply | None]]] = {}
        self._in_flight: defaultdict[str, int] = defaultdict(int)
        self._total = 0
        self._ended: OrderedDict[str, str] = OrderedDict()
        """Services by correlation id."""
        self._kept: dict[str, _Kept] = {}
        self.reached: set[str] = set()
        """Services that have taken a call."""

    def enter(self, message: Message) -> None:
        """Count a message in; every `enter` has its `leave`.

        Raises:
            Problem: `too_many_in_flight`, of this instance or for this service.
        """
        service = message.routing_key if message.is_call else ""
        if self._total >= self._settings.max_pending_requests:
            raise Problem(Code.TOO_MANY_IN_FLIGHT)
        if service and self._in_flight[service] >= self._settings.max_pending_requests_per_service:
            raise Problem(Code.TOO_MANY_IN_FLIGHT, "Too many requests for this service at once")
        self._total += 1
        self._in_flight[service] += 1

    def leave(self, message: Message) -> None:
        """Count it out."""
        service = message.routing_key if message.is_call else ""
        self._total -= 1
        self._in_flight[service] -= 1
        if not self._in_flight[service]:
            del self._in_flight[service]

    def expect(self, message: Message) -> asyncio.Future[Reply | None]:
        """What will be the reply to a request; None when the reply queue is lost."""
        reply: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        self._replies[message.correlation_id] = (message, reply)
        return reply

    def end(self, message: Message, late: Late | None = None) -> None:
        """Nobody waits any more; `late` is told of the reply, if it may still come. To be called
        again for the same message is nothing."""
        correlation_id = message.correlation_id
        _, reply = self._replies.pop(correlation_id, (None, None))
        if reply is None:
            return
        self._ended[correlation_id] = message.routing_key
        if len(self._ended) > MAX_ENDED:
            self._ended.popitem(last=False)
        if late is None or not message.sent:
            return
        if reply.done() and not reply.cancelled():
            late(reply.result() or _lost())
        elif len(self._kept) >= self._settings.max_pending_requests:
            late(_overdue())
        else:
            message.body = b""
            wait = self._settings.keep_result_seconds
            loop = asyncio.get_running_loop()
            timer = loop.call_later(wait, self._tell, correlation_id, _overdue())
            self._kept[correlation_id] = _Kept(message, late, timer)

    def label(self, service: str) -> str:
        """The service's name as a metric's label."""
        return service if service in self.reached else UNKNOWN_SERVICE

    def find(self, correlation_id: str) -> Message | None:
        """The request that a reply is for, as long as somebody wants to know the answer.

        The first reply wins: NuroPb sends two after an exception.
        """
        message, reply = self._replies.get(correlation_id, (None, None))
        if message is not None and reply is not None and not reply.done():
            return message
        service = message.routing_key if message else self._ended.get(correlation_id, "")
        self._metrics.mesh_late_replies.labels(self.label(service)).inc()
        kept = self._kept.get(correlation_id)
        return kept.message if kept else None

    def answer(self, correlation_id: str, answer: Reply) -> None:
        """Give a reply to who waits, or to who was to be told later."""
        _, reply = self._replies.get(correlation_id, (None, None))
        if reply is not None:
            reply.set_result(answer)
        else:
            self._tell(correlation_id, answer)

    def lose_all(self) -> None:
        """The reply queue is gone: what may have been sent is answered by nobody."""
        for message, reply in self._replies.values():
            if message.sent and not reply.done():
                reply.set_result(None)
        for correlation_id in tuple(self._kept):
            self._tell(correlation_id, _lost())

    def _tell(self, correlation_id: str, answer: Reply | Problem) -> None:
        kept = self._kept.pop(correlation_id, None)
        if kept is not None:
            kept.timer.cancel()
            kept.late(answer)


def _lost() -> Problem:
    return Problem(Code.MESH_UNAVAILABLE, outcome=Outcome.UNKNOWN)


def _overdue() -> Problem:
    return Problem(Code.TIMEOUT, outcome=Outcome.UNKNOWN)
