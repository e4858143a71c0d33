"""Handles what a transport receives: replies, events, and calls of this process's services."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from bff.backoff import backoff_delays
from bff.mesh import encryption
from bff.mesh.cancellation import is_cancelled, raise_if_cancelled
from bff.mesh.codec import Codec
from bff.mesh.encryption import EncryptionError
from bff.mesh.events import EventHandler, MeshEvent, RetryEvent
from bff.mesh.messages import Delivery, MalformedMessage, Message, Reply
from bff.mesh.pending_requests import PendingRequests
from bff.mesh.service import Service
from bff.telemetry.metrics import Metrics

HANDLER_SECONDS = 60
"""The time limit of one try of an event handler. After it the event is a dead letter."""
MAX_DELIVERIES = 10
"""An event that was delivered this often before, without an acknowledgement, is a dead letter: its
handler may crash the process. The queue itself has a higher limit, `event_queue.DELIVERY_LIMIT`: at
that limit RabbitMQ moves the event to the overflow queue."""
STUCK_SECONDS = 60
"""An event handler that retries one event for longer is reported as stuck."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """How long an event handler may retry one event."""

    retries: int
    seconds: float


class MessageReceiver:
    """Implements `bff.mesh.transport.Receiver` for one mesh client."""

    def __init__(
        self,
        pending_requests: PendingRequests,
        codec: Codec,
        metrics: Metrics,
        on_status: Callable[[], None],
        limits: RetryLimits,
    ) -> None:
        self._pending_requests = pending_requests
        self._codec = codec
        self._metrics = metrics
        self._on_status = on_status
        self._limits = limits
        self._retrying: dict[str, tuple[float, str]] = {}
        """By event handler: the time of the first retry of its event, and the last reason."""

    @property
    def stuck(self) -> str:
        """For operators: which event handlers have been retrying for over a minute; or empty."""
        now = asyncio.get_running_loop().time()
        return "; ".join(
            f"event handler {name!r} has been retrying for {now - since:.0f} s: {reason}"
            for name, (since, reason) in self._retrying.items()
            if now - since > STUCK_SECONDS
        )

    def on_reply(self, correlation_id: str, body: bytes) -> None:
        """Hand a reply to its request."""
        message = self._pending_requests.find(correlation_id)
        if message is None:
            return
        try:
            if message.reply_key is not None and encryption.is_encrypted(body):
                body = encryption.decrypt(body, message.reply_key)
            answer = self._codec.decode_reply(body)
        except (MalformedMessage, EncryptionError) as error:
            logger.warning(
                "malformed reply",
                extra={
                    "service": message.routing_key,
                    "trace_id": message.trace_id,
                    "error": str(error),
                },
            )
            # An error of NuroPb's protocol, which all services of the mesh speak.
            answer = Reply(error={"error": "NuropbMessageError", "description": ""})
        self._pending_requests.resolve(correlation_id, answer)

    def on_replies_lost(self) -> None:
        """Fail every request that may have been sent."""
        self._pending_requests.fail_sent()

    async def on_call(self, service: Service, delivery: Delivery) -> Message | None:
        """Let the service answer, and count the call. Returns None if there is no reply to send. A
        call that is cancelled is not counted: it will be delivered again."""
        outcome = "failed"
        try:
            reply = await service.answer(delivery)
            outcome = "answered"
            return reply
        except MalformedMessage:
            outcome = "malformed"
            raise
        finally:
            if outcome != "failed" or not is_cancelled():
                self._metrics.mesh_served.labels(service.name, outcome).inc()

    def on_status(self) -> None:
        """Report that the status of the transport has changed."""
        self._on_status()

    async def on_event(self, event_handler: EventHandler, delivery: Delivery) -> bool:
        """Run the event handler until it succeeds, raises another exception than `RetryEvent`, or
        has used up its retries. True: acknowledge the event. False: it becomes a dead letter."""
        results = self._metrics.mesh_events
        try:
            if delivery.deliveries >= MAX_DELIVERIES:
                raise _DeliveredTooOften(f"delivered {delivery.deliveries} times")
            event = self._codec.decode_event(delivery)
            await self._handle(event_handler, event)
        except (Exception, asyncio.CancelledError):
            raise_if_cancelled()
            results.labels(event_handler.name, "dead_lettered").inc()
            logger.exception(
                "event handler failed, event moved to the dead letters",
                extra={"handler": event_handler.name, "topic": delivery.routing_key},
            )
            return False
        # The functions in `on_settled` let the event's idempotency keys expire. A dead letter keeps
        # its keys, because it can be delivered again.
        delivery.on_settled.extend(event.on_settled)
        results.labels(event_handler.name, "handled").inc()
        return True

    async def _handle(self, event_handler: EventHandler, event: MeshEvent) -> None:
        """Call the event handler, and retry within the limits.

        Raises:
            RetryEvent: the limits are reached.
        """
        try:
            time = asyncio.get_running_loop().time
            retries, seconds = 0, 0.0
            for pause in backoff_delays(0.1, 5):
                began = time()
                try:
                    async with asyncio.timeout(HANDLER_SECONDS):
                        return await event_handler.handler(event)
                except RetryEvent as reason:
                    if reason.limited:  # tries while Redis is unavailable do not count
                        retries += 1
                        seconds += time() - began + pause
                        if retries > self._limits.retries or seconds > self._limits.seconds:
                            raise
                    self._report_retry(event_handler.name, pause, str(reason))
                    await asyncio.sleep(pause)
        finally:
            if self._retrying.pop(event_handler.name, None):
                self._metrics.mesh_event_retry_seconds.labels(event_handler.name).set(0)

    def _report_retry(self, handler: str, pause: float, reason: str) -> None:
        now = asyncio.get_running_loop().time()
        since, _ = self._retrying.get(handler, (now, ""))
        self._retrying[handler] = since, reason
        self._metrics.mesh_events.labels(handler, "retried").inc()
        self._metrics.mesh_event_retry_seconds.labels(handler).set(now - since)
        logger.warning(
            "event handler asked to retry",
            extra={"handler": handler, "reason": reason, "retry_in_seconds": round(pause, 1)},
        )


class _DeliveredTooOften(Exception):
    """The event may have ended the process each time."""
