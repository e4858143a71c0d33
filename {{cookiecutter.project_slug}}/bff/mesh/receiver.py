"""Handles what a transport receives: replies, events, and calls of this process's services."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from bff.backoff import backoff_delays
from bff.mesh import encryption
from bff.mesh.cancellation import raise_if_cancelled
from bff.mesh.codec import Codec
from bff.mesh.encryption import EncryptionError
from bff.mesh.events import EventHandler, RetryEvent
from bff.mesh.messages import Delivery, MalformedMessage, Message, Reply
from bff.mesh.pending_calls import PendingCalls
from bff.mesh.service import Service
from bff.telemetry.metrics import Metrics

HANDLER_SECONDS = 60
"""The time limit of an event handler. After it the event is a dead letter."""

logger = logging.getLogger(__name__)


class MessageReceiver:
    """The `Receiver` of one client."""

    def __init__(
        self,
        pending_calls: PendingCalls,
        codec: Codec,
        metrics: Metrics,
        on_status: Callable[[], None],
    ) -> None:
        self._pending_calls = pending_calls
        self._codec = codec
        self._metrics = metrics
        self._on_status = on_status

    def on_reply(self, correlation_id: str, body: bytes) -> None:
        """Hand a reply to its request."""
        message = self._pending_calls.find(correlation_id)
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
            answer = Reply(error={"error": "NuropbMessageError", "description": ""})
        self._pending_calls.resolve(correlation_id, answer)

    def on_replies_lost(self) -> None:
        """Fail every request that may have been sent. The others still wait for a connection."""
        self._pending_calls.fail_all()

    async def on_call(self, service: Service, delivery: Delivery) -> Message | None:
        """Let the service answer, and count the call."""
        outcome = "malformed"
        try:
            reply = await service.answer(delivery)
            outcome = "answered"
            return reply
        finally:
            self._metrics.mesh_served.labels(service.name, outcome).inc()

    def on_status(self) -> None:
        """Report the new status."""
        self._on_status()

    async def on_event(self, event_handler: EventHandler, delivery: Delivery) -> bool:
        """Run the event handler until it succeeds, or until it fails other than by `RetryEvent`."""
        results = self._metrics.mesh_events
        try:
            event = self._codec.decode_event(delivery)
            for pause in backoff_delays(0.1, 5):
                try:
                    async with asyncio.timeout(HANDLER_SECONDS):
                        await event_handler.handler(event)
                except RetryEvent as reason:
                    results.labels(event_handler.name, "retried").inc()
                    logger.warning(
                        "event handler retries",
                        extra={
                            "handler": event_handler.name,
                            "reason": str(reason),
                            "seconds": round(pause, 1),
                        },
                    )
                    await asyncio.sleep(pause)
                else:
                    break
        except (Exception, asyncio.CancelledError):
            raise_if_cancelled()
            results.labels(event_handler.name, "dead_lettered").inc()
            logger.exception(
                "event handler failed, event moved to the dead letters",
                extra={"handler": event_handler.name, "topic": delivery.routing_key},
            )
            return False
        results.labels(event_handler.name, "handled").inc()
        return True
