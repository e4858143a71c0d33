"""Calls to the services of the mesh, each with one deadline, and the events that come from it."""

from __future__ import annotations

import asyncio
import copy
import logging
import re
import secrets
from typing import Any, Self

from app.backoff import pauses
from app.errors import Code, Outcome, Problem
from app.mesh import nuropb
from app.mesh.amqp import AmqpTransport
from app.mesh.events import EventNotTaken, EventRule
from app.mesh.memory import MemoryBroker, MemoryTransport
from app.mesh.nuropb import Delivery, Kind, MalformedMessage, Message, Reply
from app.mesh.transport import LinkLost, MeshStatus, MeshTransport, Unroutable
from app.settings import Settings
from app.telemetry.metrics import Metrics

HANDLER_SECONDS = 60
"""A handler that takes longer is taken for stuck, and its event for a dead letter."""
MAX_TOPIC_BYTES = 255
UNKNOWN_SERVICE = "unknown"
"""The label of calls to services that were never reached: no caller can make up labels."""

_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_METHOD = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,127}")

logger = logging.getLogger(__name__)


class MeshClient:
    """The mesh as the rest of the app sees it."""

    def __init__(self, settings: Settings, metrics: Metrics, transport: MeshTransport) -> None:
        self._settings = settings
        self._metrics = metrics
        self._transport = transport
        self._rules: list[EventRule] = []
        self._pending: dict[str, tuple[Message, asyncio.Future[Reply | None]]] = {}
        self._in_flight: set[str] = set()
        self._reached: set[str] = set()
        self._context: dict[str, Any] = {}

    def with_context(self, context: dict[str, Any]) -> Self:
        """The same client, whose calls carry this context: in whose name they are made."""
        twin = copy.copy(self)
        twin._context = context
        return twin

    def add_rule(self, rule: EventRule) -> None:
        """Take in an event rule, before `start`.

        Raises:
            ValueError: another rule has that name.
        """
        if any(rule.name == other.name for other in self._rules):
            raise ValueError(f"two event rules are named {rule.name!r}")
        self._rules.append(rule)

    async def start(self) -> None:
        """Begin to connect. Works without a broker too: `status` tells when there is one."""
        await self._transport.start(self, self._rules)

    async def stop(self) -> None:
        """Disconnect; requests without an answer fail."""
        await self._transport.stop()

    @property
    def status(self) -> MeshStatus:
        """Whether calls can be made now."""
        return self._transport.status

    async def request(
        self,
        service: str,
        method: str,
        params: dict[str, Any],
        *,
        context: dict[str, Any] | None = None,
        timeout: float | None = None,
        trace_id: str | None = None,
    ) -> Any:
        """Call a method and give back its result.

        `timeout` in seconds covers everything, waiting for a connection too; it is cut to
        `request_timeout_max`.

        Raises:
            Problem: the service's error, or what kept the call from being answered.
        """
        message = self._call(Kind.REQUEST, service, method, params, context, timeout, trace_id)
        reply: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        self._pending[message.correlation_id] = (message, reply)
        try:
            return await self._measured(message, method, reply)
        finally:
            del self._pending[message.correlation_id]

    async def command(
        self,
        service: str,
        method: str,
        params: dict[str, Any],
        *,
        context: dict[str, Any] | None = None,
        timeout: float | None = None,
        trace_id: str | None = None,
    ) -> None:
        """Call a method that answers nothing; returns when the broker has the command.

        A command that no service instance has begun within `timeout` seconds is dropped.

        Raises:
            Problem: the command was not sent, or it is not known whether it was.
        """
        message = self._call(Kind.COMMAND, service, method, params, context, timeout, trace_id)
        await self._measured(message, method, None)

    async def publish(
        self,
        topic: str,
        event: Any,
        *,
        context: dict[str, Any] | None = None,
        target: list[str] | None = None,
        trace_id: str | None = None,
    ) -> None:
        """Publish an event; returns when the broker has it, whether or not anyone listens.

        Raises:
            Problem: the event was not sent, or it is not known whether it was.
        """
        if not 0 < len(topic.encode()) <= MAX_TOPIC_BYTES:
            raise Problem(Code.INVALID_PARAMS, "Not a topic")
        deadline = self._deadline(None)
        trace_id = trace_id or secrets.token_hex(16)
        try:
            message = nuropb.event(topic, event, context or {}, target, trace_id, deadline)
        except TypeError as error:
            raise Problem(Code.INVALID_PARAMS, "The event is not JSON") from error
        await self._exchange(message, None)

    def _call(
        self,
        kind: Kind,
        service: str,
        method: str,
        params: dict[str, Any],
        context: dict[str, Any] | None,
        timeout: float | None,
        trace_id: str | None,
    ) -> Message:
        if not _SERVICE.fullmatch(service):
            raise Problem(Code.INVALID_PARAMS, "Not a service name")
        if not _METHOD.fullmatch(method):
            raise Problem(Code.INVALID_PARAMS, "Not a method name")
        deadline = self._deadline(timeout)
        trace_id = trace_id or secrets.token_hex(16)
        try:
            context = {**self._context, **(context or {}), "trace_id": trace_id}
            return nuropb.call(kind, service, method, params, context, trace_id, deadline)
        except TypeError as error:
            raise Problem(Code.INVALID_PARAMS, "The parameters are not JSON") from error

    def _deadline(self, timeout: float | None) -> float:
        seconds = self._settings.request_timeout if timeout is None else timeout
        limited = min(seconds, self._settings.request_timeout_max)
        return asyncio.get_running_loop().time() + limited

    async def _measured(
        self, message: Message, method: str, reply: asyncio.Future[Reply | None] | None
    ) -> Any:
        started = asyncio.get_running_loop().time()
        outcome = "cancelled"
        try:
            answer = await self._exchange(message, reply)
            if answer is not None and answer.error is not None:
                where = f"{message.routing_key}.{method}"
                raise nuropb.problem(answer.error, where=where, trace_id=message.trace_id)
            outcome = "ok"
            return answer and answer.result
        except Problem as problem:
            outcome = problem.code.value
            raise
        finally:
            service = message.routing_key
            label = service if service in self._reached else UNKNOWN_SERVICE
            self._metrics.mesh_calls.labels(label, outcome).inc()
            if reply is not None:
                elapsed = asyncio.get_running_loop().time() - started
                self._metrics.mesh_seconds.labels(label).observe(elapsed)

    async def _exchange(
        self, message: Message, reply: asyncio.Future[Reply | None] | None
    ) -> Reply | None:
        """Send a message and, for a request, wait for its reply; all that fails is a `Problem`."""
        if len(self._in_flight) >= self._settings.pending_requests:
            raise Problem(Code.TOO_MANY_IN_FLIGHT)
        self._in_flight.add(message.correlation_id)
        try:
            async with asyncio.timeout_at(message.deadline):
                await self._transport.publish(message)
                if message.kind is not Kind.EVENT:
                    self._reached.add(message.routing_key)
                if reply is None:
                    return None
                answer = await reply
        except TimeoutError:
            code = Code.TIMEOUT if message.sent else Code.MESH_UNAVAILABLE
            raise Problem(code, outcome=_outcome(message)) from None
        except Unroutable:
            raise Problem(Code.SERVICE_UNAVAILABLE) from None
        except LinkLost:
            raise Problem(Code.MESH_UNAVAILABLE, outcome=_outcome(message)) from None
        finally:
            self._in_flight.discard(message.correlation_id)
        if answer is None:
            raise Problem(Code.MESH_UNAVAILABLE, outcome=Outcome.UNKNOWN)
        return answer

    def on_reply(self, correlation_id: str, body: bytes) -> None:
        """Hand a reply to its request. The first wins: NuroPb sends two after an exception."""
        message, reply = self._pending.get(correlation_id, (None, None))
        if message is None or reply is None or reply.done():
            self._metrics.mesh_late_replies.inc()
            return
        try:
            reply.set_result(nuropb.decode_reply(body))
        except MalformedMessage as error:
            logger.warning("%s: bad reply: %s", message.routing_key, error)
            reply.set_result(Reply(error={"error": "NuropbMessageError", "description": ""}))

    def on_replies_lost(self) -> None:
        """Fail every request that may have been sent; the others still wait for a connection."""
        for message, reply in self._pending.values():
            if message.sent and not reply.done():
                reply.set_result(None)

    def on_status(self) -> None:
        """Show the connection in the metrics."""
        self._metrics.mesh_connected.set(self.status.connected)

    async def on_event(self, rule: EventRule, delivery: Delivery) -> bool:
        """Give an event to its rule until it is taken; False when it is a dead letter."""
        results = self._metrics.mesh_events
        try:
            event = nuropb.decode_event(delivery)
            for pause in pauses(0.1, 5):
                try:
                    async with asyncio.timeout(HANDLER_SECONDS):
                        await rule.handler(event)
                except EventNotTaken as reason:
                    results.labels(rule.name, "retried").inc()
                    logger.warning("Rule %s waits %.1f s: %s", rule.name, pause, reason)
                    await asyncio.sleep(pause)
                else:
                    break
        except Exception:
            results.labels(rule.name, "dead_lettered").inc()
            logger.exception(
                "Rule %s: event %s to the dead letters", rule.name, delivery.routing_key
            )
            return False
        results.labels(rule.name, "handled").inc()
        return True


def _outcome(message: Message) -> Outcome:
    return Outcome.UNKNOWN if message.sent else Outcome.NOT_SENT


def connect(
    settings: Settings, metrics: Metrics, *, broker: MemoryBroker | None = None
) -> MeshClient:
    """The client for `settings.amqp_url`; `broker` is the in-process mesh to share, if that."""
    transport: MeshTransport
    if settings.amqp_url == "memory://":
        transport = MemoryTransport(settings.app_name, broker or MemoryBroker())
    else:
        transport = AmqpTransport(settings)
    return MeshClient(settings, metrics, transport)
