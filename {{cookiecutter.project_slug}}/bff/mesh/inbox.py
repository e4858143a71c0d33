"""What the mesh brings to a client: replies, calls of its services, events of its rules."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from bff.backoff import pauses
from bff.mesh import encryption
from bff.mesh.cancellation import ends_if_cancelled
from bff.mesh.encryption import Unreadable
from bff.mesh.events import EventNotTaken, EventRule
from bff.mesh.format import MessageFormat
from bff.mesh.messages import Delivery, MalformedMessage, Message, Reply
from bff.mesh.service import Service
from bff.mesh.waiting import Waiting
from bff.telemetry.metrics import Metrics

HANDLER_SECONDS = 60
"""A handler that takes longer is taken for stuck, and its event for a dead letter."""

logger = logging.getLogger(__name__)


class Inbox:
    """The receiver of a transport."""

    def __init__(
        self,
        waiting: Waiting,
        message_format: MessageFormat,
        metrics: Metrics,
        changed: Callable[[], None],
    ) -> None:
        self._waiting = waiting
        self._format = message_format
        self._metrics = metrics
        self._changed = changed

    def on_reply(self, correlation_id: str, body: bytes) -> None:
        """Hand a reply to its request."""
        message = self._waiting.find(correlation_id)
        if message is None:
            return
        try:
            if message.key is not None and encryption.is_sealed(body):
                body = encryption.unseal(body, message.key)
            answer = self._format.decode_reply(body)
        except (MalformedMessage, Unreadable) as error:
            logger.warning("%s: bad reply: %s", message.routing_key, error)
            answer = Reply(error={"error": "NuropbMessageError", "description": ""})
        self._waiting.answer(correlation_id, answer)

    def on_replies_lost(self) -> None:
        """Fail every request that may have been sent; the others still wait for a connection."""
        self._waiting.lose_all()

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

    async def on_event(self, rule: EventRule, delivery: Delivery) -> bool:
        """Give an event to its rule until it is taken; False when it is a dead letter."""
        results = self._metrics.mesh_events
        try:
            event = self._format.decode_event(delivery)
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
        except (Exception, asyncio.CancelledError):
            ends_if_cancelled()
            results.labels(rule.name, "dead_lettered").inc()
            logger.exception(
                "Rule %s: event %s to the dead letters", rule.name, delivery.routing_key
            )
            return False
        results.labels(rule.name, "handled").inc()
        return True
