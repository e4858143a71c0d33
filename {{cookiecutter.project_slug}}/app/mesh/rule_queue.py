"""The durable queue of an event rule on RabbitMQ, and its one consumer."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from aiormq import Channel
from aiormq.abc import AbstractConnection, DeliveredMessage

from app.backoff import pauses
from app.mesh.events import EventRule
from app.mesh.link import (
    BROKER_SECONDS,
    LONGEST_PAUSE,
    broker_errors,
    close,
    consumer_cancelled,
    open_channel,
)
from app.mesh.nuropb import Delivery
from app.mesh.transport import LinkLost, Receiver
from app.settings import Settings

PREFETCH = 32
"""Events fetched ahead; they are still handled one by one."""
MAX_EVENTS = 10_000
"""Beyond it the oldest event moves to the dead letters: publishers are never held up."""
MAX_DEAD_LETTERS = 10_000
UNUSED_MS = 7 * 24 * 3600 * 1000
MAX_DELIVERIES = 100
"""An event that ends the process each time is a dead letter in the end."""

logger = logging.getLogger(__name__)


class RuleConsumer:
    """Keeps consuming a rule's queue on a channel of its own: what ails it harms no other."""

    def __init__(self, settings: Settings, rule: EventRule, receiver: Receiver) -> None:
        self._exchange = settings.events_exchange
        self._queue = f"{settings.app_name}.events.{rule.name}.v1"
        self._dead_letters = f"{settings.app_name}.dead-letters.v1"
        self._rule = rule
        self._receiver = receiver
        self.consumes = asyncio.Event()
        """Set once the queue is there and bound: from then on no event is missed."""

    async def run(self, connection: AbstractConnection) -> None:
        """Consume until the connection ends and this task is cancelled."""
        for pause in pauses(0.5, LONGEST_PAUSE):
            try:
                with broker_errors():
                    await self._consume(connection)
            except LinkLost as error:
                logger.warning("Event rule %s: %s", self._rule.name, error)
            except Exception:
                logger.exception("Event rule %s", self._rule.name)
            await asyncio.sleep(pause)

    async def _consume(self, connection: AbstractConnection) -> None:
        deliveries: asyncio.Queue[DeliveredMessage] = asyncio.Queue(PREFETCH)
        channel = await open_channel(connection, confirms=False)
        handling = asyncio.get_running_loop().create_task(self._handle(channel, deliveries))
        ends = {handling, channel.closing, consumer_cancelled(channel)}
        try:
            async with asyncio.timeout(BROKER_SECONDS):
                await self._declare(channel)
                await channel.basic_qos(prefetch_count=PREFETCH)
                await channel.basic_consume(self._queue, deliveries.put)
            self.consumes.set()
            ended, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            ended.pop().result()
            raise LinkLost("the queue is gone")
        finally:
            handling.cancel()
            await asyncio.gather(handling, return_exceptions=True)
            await close(channel)

    async def _declare(self, channel: Channel) -> None:
        """Arguments are constant: RabbitMQ refuses other ones for a queue that exists."""
        await channel.queue_declare(
            self._dead_letters,
            durable=True,
            arguments={"x-queue-type": "quorum", "x-max-length": MAX_DEAD_LETTERS},
        )
        arguments: dict[str, Any] = {
            "x-queue-type": "quorum",
            "x-single-active-consumer": True,
            "x-max-length": MAX_EVENTS,
            "x-overflow": "drop-head",
            "x-expires": UNUSED_MS,
            "x-delivery-limit": MAX_DELIVERIES,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self._dead_letters,
        }
        await channel.queue_declare(self._queue, durable=True, arguments=arguments)
        await channel.queue_bind(self._queue, self._exchange, routing_key=self._rule.topic)

    async def _handle(self, channel: Channel, deliveries: asyncio.Queue[DeliveredMessage]) -> None:
        while True:
            message = await deliveries.get()
            taken = await self._receiver.on_event(self._rule, delivery(message))
            tag = message.delivery_tag or 0
            async with asyncio.timeout(BROKER_SECONDS):
                if taken:
                    await channel.basic_ack(tag, wait=False)
                else:
                    await channel.basic_reject(tag, requeue=False, wait=False)


def delivery(message: DeliveredMessage) -> Delivery:
    """What arrived, without AMQP."""
    properties = message.header.properties
    trace_id = (properties.headers or {}).get("trace_id")
    return Delivery(
        routing_key=message.routing_key or "",
        body=message.body,
        correlation_id=properties.correlation_id or properties.message_id or "",
        trace_id=trace_id if isinstance(trace_id, str) else None,
    )
