"""The durable queue of an event handler on RabbitMQ, and its single consumer."""

from __future__ import annotations

import asyncio
from typing import Any

from aiormq import Channel
from aiormq.abc import AbstractConnection, DeliveredMessage

from bff.mesh.events import EventHandler
from bff.mesh.rabbitmq.connection import (
    BROKER_SECONDS,
    close,
    declare_exchanges,
    open_channel,
    stop_tasks,
)
from bff.mesh.rabbitmq.consumer import QueueConsumer, to_delivery
from bff.mesh.transport import Receiver
from bff.settings import MeshSettings

PREFETCH = 32
"""Events that are fetched ahead. They are still handled one at a time."""
MAX_EVENTS = 10_000
"""Beyond it the oldest event moves to the dead letters, so that publishers never wait."""
MAX_DEAD_LETTERS = 10_000
UNUSED_MS = 7 * 24 * 3600 * 1000
"""A queue without a consumer is deleted after this time."""
MAX_DELIVERIES = 100
"""An event that crashes the process each time is a dead letter after so many deliveries."""


class EventConsumer(QueueConsumer):
    """Hands the events of a queue to its event handler, one at a time."""

    def __init__(
        self, settings: MeshSettings, event_handler: EventHandler, receiver: Receiver
    ) -> None:
        super().__init__(f"{settings.app_name}.events.{event_handler.name}.v1")
        self._settings = settings
        self._dead_letters = f"{settings.app_name}.dead-letters.v1"
        self._event_handler = event_handler
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
            await self.wait_until_lost(channel, handling)
        finally:
            await stop_tasks(handling)
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
        await channel.queue_bind(self._queue, exchange, routing_key=self._event_handler.topic)

    async def _handle(self, channel: Channel, deliveries: asyncio.Queue[DeliveredMessage]) -> None:
        while True:
            message = await deliveries.get()
            handled = await self._receiver.on_event(self._event_handler, to_delivery(message))
            tag = message.delivery_tag or 0
            async with asyncio.timeout(BROKER_SECONDS):
                if handled:
                    await channel.basic_ack(tag, wait=False)
                else:
                    await channel.basic_reject(tag, requeue=False, wait=False)
