"""Requests that wait for a reply, and those whose reply may still arrive late.

A request expects a reply; a command and an event do not (`Kind`). A call is a request or a command.
"""

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
"""The metrics' label of services that were never reached, so that callers cannot create label
values."""
MAX_ENDED_REQUESTS = 10_000
"""How many ended requests are remembered, to count their late replies by service."""

OnLate = Callable[[Reply | Problem], None]
"""Receives the reply that came after the caller stopped waiting, or why none will come."""


@dataclass(slots=True)
class _LateRequest:
    """A request whose caller waits no longer, but still wants the reply."""

    message: Message
    on_late: OnLate
    timer: asyncio.TimerHandle


class PendingRequests:
    """Matches replies to requests by correlation id, and limits the messages in flight."""

    def __init__(self, settings: MeshSettings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._replies: dict[str, tuple[Message, asyncio.Future[Reply | None]]] = {}
        self._in_flight: defaultdict[str, int] = defaultdict(int)
        """Calls in flight by service; events under an empty name."""
        self._total = 0
        self._ended: OrderedDict[str, str] = OrderedDict()
        """Services of ended requests, by correlation id."""
        self._late_requests: dict[str, _LateRequest] = {}
        self._named_services: set[str] = set()

    def acquire_slot(self, message: Message) -> None:
        """Count a message as in flight, until `release_slot`: a request until its reply, another
        message until its confirm.

        Raises:
            Problem: `too_many_in_flight`, on this instance or to this service.
        """
        service = message.routing_key if message.is_call else ""
        if self._total >= self._settings.max_pending_requests:
            raise Problem(Code.TOO_MANY_IN_FLIGHT)
        if service and self._in_flight[service] >= self._settings.max_pending_requests_per_service:
            raise Problem(Code.TOO_MANY_IN_FLIGHT, "Too many calls of this service at once")
        self._total += 1
        self._in_flight[service] += 1

    def release_slot(self, message: Message) -> None:
        """No longer count a message as in flight."""
        service = message.routing_key if message.is_call else ""
        self._total -= 1
        self._in_flight[service] -= 1
        if not self._in_flight[service]:
            del self._in_flight[service]

    def expect(self, message: Message) -> asyncio.Future[Reply | None]:
        """The future reply to a request. Its result is None when the reply queue is lost."""
        reply: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        self._replies[message.correlation_id] = (message, reply)
        return reply

    def stop_waiting(self, message: Message, on_late: OnLate | None = None) -> None:
        """Wait no longer for the reply to a request. Idempotent; does nothing after `take_reply`.

        `on_late` is called once: with the reply, or with a `Problem` when the reply queue is lost,
        when the setting `keep_result_seconds` has passed, or at once if `max_pending_requests` late
        requests are waiting already. It is not called for a request that was not sent.
        """
        correlation_id = message.correlation_id
        _, reply = self._replies.pop(correlation_id, (None, None))
        if reply is None:
            return
        self._ended[correlation_id] = message.routing_key
        if len(self._ended) > MAX_ENDED_REQUESTS:
            self._ended.popitem(last=False)
        if on_late is None or not message.sent:
            return
        if _has_result(reply):
            on_late(reply.result() or _lost())
        elif len(self._late_requests) >= self._settings.max_pending_requests:
            on_late(_timed_out())
        else:
            message.body = b""
            wait = self._settings.keep_result_seconds
            loop = asyncio.get_running_loop()
            timer = loop.call_later(wait, self._end_late_request, correlation_id, _timed_out())
            self._late_requests[correlation_id] = _LateRequest(message, on_late, timer)

    def name_in_metrics(self, service: str) -> None:
        """Use the service's name as a label of metrics: the broker has routed a call to it."""
        self._named_services.add(service)

    def label(self, service: str) -> str:
        """The label of a service in metrics."""
        return service if service in self._named_services else UNKNOWN_SERVICE

    def find(self, correlation_id: str) -> Message | None:
        """The request that a reply is for, if the reply is still wanted.

        Only the first reply is used: after an exception, a service that uses NuroPb sends two.
        Replies for which no request waits are counted in the metrics.
        """
        message, reply = self._replies.get(correlation_id, (None, None))
        if message and reply and (not reply.done() or reply.cancelled()):
            return message
        service = message.routing_key if message else self._ended.get(correlation_id, "")
        self._metrics.mesh_late_replies.labels(self.label(service)).inc()
        late_request = self._late_requests.get(correlation_id)
        return late_request.message if late_request else None

    def resolve(self, correlation_id: str, answer: Reply) -> None:
        """Hand a reply to the caller that waits for it, or to `on_late`."""
        expected = self._replies.get(correlation_id)
        if expected is None:
            self._end_late_request(correlation_id, answer)
            return
        message, reply = expected
        self._settle(message, reply, answer)
        if message.confirm is not None and not message.confirm.done():
            message.confirm.set_result(None)

    def take_reply(self, message: Message) -> Reply | None:
        """The reply, if it has arrived: also when the wait ended for another reason (a timeout, a
        nack, a lost connection). The request is then done."""
        _, reply = self._replies.get(message.correlation_id, (None, None))
        if reply is None or not _has_result(reply):
            return None
        if (answer := reply.result()) is not None:
            self.stop_waiting(message)
        return answer

    def fail_sent(self) -> None:
        """The reply queue is lost: no request that may have been sent will get a reply. The others
        still wait for a connection."""
        for message, reply in tuple(self._replies.values()):
            if message.sent and not _has_result(reply):
                self._settle(message, reply, None)
        for correlation_id in tuple(self._late_requests):
            self._end_late_request(correlation_id, _lost())

    def _settle(
        self, message: Message, reply: asyncio.Future[Reply | None], answer: Reply | None
    ) -> None:
        """Keep a reply. If its caller was cancelled in this turn of the loop, its future is
        cancelled too: then a new future holds the reply, for `stop_waiting`."""
        if reply.cancelled():
            reply = asyncio.get_running_loop().create_future()
            self._replies[message.correlation_id] = message, reply
        reply.set_result(answer)

    def _end_late_request(self, correlation_id: str, answer: Reply | Problem) -> None:
        late_request = self._late_requests.pop(correlation_id, None)
        if late_request is not None:
            late_request.timer.cancel()
            late_request.on_late(answer)


def _has_result(reply: asyncio.Future[Reply | None]) -> bool:
    return reply.done() and not reply.cancelled()


def _lost() -> Problem:
    return Problem(Code.MESH_UNAVAILABLE, outcome=Outcome.UNKNOWN)


def _timed_out() -> Problem:
    return Problem(Code.TIMEOUT, outcome=Outcome.UNKNOWN)
