"""The durable queue of an event rule on RabbitMQ, and its one consumer."""

from __future__ import annotations

import asyncio
from typing import Any

from aiormq import Channel
from aiormq.abc import AbstractConnection, DeliveredMessage

from bff.mesh.events import EventHandler
from bff.mesh.rabbitmq.connection import BROKER_SECONDS, close, declare_exchanges, end, open_channel
from bff.mesh.rabbitmq.consumer import QueueConsumer, delivery
from bff.mesh.transport import Receiver
from bff.settings import MeshSettings

PREFETCH = 32
"""Events fetched ahead; they are still handled one by one."""
MAX_EVENTS = 10_000
"""Beyond it the oldest event moves to the dead letters: publishers are never held up."""
MAX_DEAD_LETTERS = 10_000
UNUSED_MS = 7 * 24 * 3600 * 1000
MAX_DELIVERIES = 100
"""An event that ends the process each time is a dead letter in the end."""


class EventConsumer(QueueConsumer):
    """Consumes a rule's queue, one event after the other."""

    def __init__(
        self, settings: MeshSettings, event_handler: EventHandler, receiver: Receiver
    ) -> None:
        super().__init__(f"event rule {event_handler.name}")
        self._settings = settings
        self._queue = f"{settings.app_name}.events.{event_handler.name}.v1"
        self._dead_letters = f"{settings.app_name}.dead-letters.v1"
        self._rule = event_handler
        self._receiver = receiver

    async def consume(self, connection: AbstractConnection) -> None:
        deliveries: asyncio.Queue[DeliveredMessage] = asyncio.Queue(PREFETCH)
        channel = await open_channel(connection, confirms=False)
        handling = asyncio.get_running_loop().create_task(self._handle(channel, deliveries))
        try:
            async with asyncio.timeout(BROKER_SECONDS):
                await self.declare(channel)
                await channel.basic_qos(prefetch_count=PREFETCH)
                await channel.basic_consume(self._queue, deliveries.put)
            await self.until_lost(channel, handling)
        finally:
            await end(handling)
            await close(channel)

    async def declare(self, channel: Channel) -> None:
        await declare_exchanges(channel, self._settings)
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
        exchange = self._settings.events_exchange
        await channel.queue_bind(self._queue, exchange, routing_key=self._rule.topic)

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
