"""What the mesh brings to a client: replies, calls of its services, events of its rules."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from bff.backoff import backoff_delays
from bff.mesh import encryption
from bff.mesh.cancellation import ends_if_cancelled
from bff.mesh.codec import Codec
from bff.mesh.encryption import Unreadable
from bff.mesh.events import EventHandler, RetryEvent
from bff.mesh.messages import Delivery, MalformedMessage, Message, Reply
from bff.mesh.pending_calls import PendingCalls
from bff.mesh.service import Service
from bff.telemetry.metrics import Metrics

HANDLER_SECONDS = 60
"""A handler that takes longer is taken for stuck, and its event for a dead letter."""

logger = logging.getLogger(__name__)


class MessageReceiver:
    """The receiver of a transport."""

    def __init__(
        self,
        pending_calls: PendingCalls,
        codec: Codec,
        metrics: Metrics,
        changed: Callable[[], None],
    ) -> None:
        self._pending_calls = pending_calls
        self._format = codec
        self._metrics = metrics
        self._changed = changed

    def on_reply(self, correlation_id: str, body: bytes) -> None:
        """Hand a reply to its request."""
        message = self._pending_calls.find(correlation_id)
        if message is None:
            return
        try:
            if message.key is not None and encryption.is_sealed(body):
                body = encryption.unseal(body, message.key)
            answer = self._format.decode_reply(body)
        except (MalformedMessage, Unreadable) as error:
            logger.warning("%s: bad reply: %s", message.routing_key, error)
            answer = Reply(error={"error": "NuropbMessageError", "description": ""})
        self._pending_calls.answer(correlation_id, answer)

    def on_replies_lost(self) -> None:
        """Fail every request that may have been sent; the others still wait for a connection."""
        self._pending_calls.lose_all()

    async def on_call(self, service: Service, delivery: Delivery) -> Message | None:
        """Have a service of ours answer, and count it."""
        outcome = "malformed"
        try:
            reply = await service.answer(delivery)
            outcome = "answered"
            return reply
        finally:
            self._metrics.mesh_served.labels(service.name, outcome).inc()

    def on_status(self) -> None:
        """Pass it on."""
        self._changed()

    async def on_event(self, event_handler: EventHandler, delivery: Delivery) -> bool:
        """Give an event to its rule until it is taken; False when it is a dead letter."""
        results = self._metrics.mesh_events
        try:
            event = self._format.decode_event(delivery)
            for pause in backoff_delays(0.1, 5):
                try:
                    async with asyncio.timeout(HANDLER_SECONDS):
                        await event_handler.handler(event)
                except RetryEvent as reason:
                    results.labels(event_handler.name, "retried").inc()
                    logger.warning("Rule %s waits %.1f s: %s", event_handler.name, pause, reason)
                    await asyncio.sleep(pause)
                else:
                    break
        except (Exception, asyncio.CancelledError):
            ends_if_cancelled()
            results.labels(event_handler.name, "dead_lettered").inc()
            logger.exception(
                "Rule %s: event %s to the dead letters", event_handler.name, delivery.routing_key
            )
            return False
        results.labels(event_handler.name, "handled").inc()
        return True
