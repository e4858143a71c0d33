"""The durable queue of an event handler on RabbitMQ, and its single consumer."""

from __future__ import annotations

import asyncio
import datetime as dt
from contextlib import suppress
from typing import Any

from aiormq import Channel
from aiormq.abc import AbstractConnection, DeliveredMessage
from aiormq.exceptions import DeliveryError

from bff.mesh.cancellation import raise_if_cancelled
from bff.mesh.events import EventHandler
from bff.mesh.messages import Delivery
from bff.mesh.rabbitmq.connection import (
    BROKER_SECONDS,
    close,
    declare_exchanges,
    open_channel,
    stop_tasks,
)
from bff.mesh.rabbitmq.consumer import UNUSED_MS, QueueConsumer, republished, to_delivery
from bff.mesh.rabbitmq.settled import AckedDeliveries
from bff.mesh.transport import ConnectionLost, Receiver
from bff.settings import MeshSettings

PREFETCH = 1
"""When the process ends, RabbitMQ counts a delivery for every event that the process had not yet
acknowledged. With more than one, an event that ends the process would take others with it
to the dead letters."""
MAX_EVENTS = 10_000
"""Beyond it the oldest event moves to the overflow queue, so that publishers never wait."""
MAX_DEAD_LETTERS = 10_000
"""The limit of the queue of dead letters, and of the overflow queue. These are two queues, so that
one kind cannot push out the other."""
DELIVERY_LIMIT = 100
"""The queue's own limit. The consumer's is lower (`receiver.MAX_DELIVERIES`)."""
UNAVAILABLE_SECONDS = 2
"""How often a consumer that has no event asks its handler whether it could handle one."""


class EventConsumer(QueueConsumer):
    """Hands the events of a queue to its event handler, one at a time."""

    def __init__(
        self, settings: MeshSettings, event_handler: EventHandler, receiver: Receiver
    ) -> None:
        super().__init__(queue_of(settings.app_name, event_handler.name))
        self._settings = settings
        self._dead_letters, self._overflow = dead_letter_queues(settings.app_name)
        self._event_handler = event_handler
        self._receiver = receiver

    async def consume(self, connection: AbstractConnection) -> None:
        channel = await open_channel(connection, confirms=True)
        try:
            await self._declare_and_wait(channel)
            await self._consume(channel)
        finally:
            await close(channel)

    async def _consume(self, channel: Channel) -> None:
        deliveries: asyncio.Queue[DeliveredMessage] = asyncio.Queue(PREFETCH)
        acked = AckedDeliveries()
        handling = asyncio.get_running_loop().create_task(self._handle(channel, acked, deliveries))
        try:
            async with asyncio.timeout(BROKER_SECONDS):
                await channel.basic_qos(prefetch_count=PREFETCH)
                await channel.basic_consume(self._queue, deliveries.put)
            await self.wait_until_lost(channel, acked, handling)
        finally:
            await stop_tasks(handling)

    async def declare(self, channel: Channel) -> None:
        await declare_exchanges(channel, self._settings)
        for queue in (self._dead_letters, self._overflow):
            await channel.queue_declare(
                queue,
                durable=True,
                arguments={"x-queue-type": "quorum", "x-max-length": MAX_DEAD_LETTERS},
            )
        arguments: dict[str, Any] = {
            "x-queue-type": "quorum",
            "x-single-active-consumer": True,
            "x-max-length": MAX_EVENTS,
            "x-overflow": "drop-head",
            "x-expires": UNUSED_MS,
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": self._overflow,
        }
        await channel.queue_declare(self._queue, durable=True, arguments=arguments)
        exchange = self._settings.events_exchange
        await channel.queue_bind(self._queue, exchange, routing_key=self._event_handler.topic)

    async def _declare_and_wait(self, channel: Channel) -> None:
        """Declare the queue, so that it receives events. Then wait until they can be handled."""
        while True:
            async with asyncio.timeout(BROKER_SECONDS):
                await self.declare(channel)
            self.ready.set()
            reason = self._event_handler.unavailable()
            if not reason:
                return
            self._report(reason)
            await asyncio.sleep(UNAVAILABLE_SECONDS)

    async def _handle(
        self,
        channel: Channel,
        acked: AckedDeliveries,
        deliveries: asyncio.Queue[DeliveredMessage],
    ) -> None:
        while True:
            message = await self._next(deliveries)
            delivery = to_delivery(message)
            handled = await self._receiver.on_event(self._event_handler, delivery)
            raise_if_cancelled()
            tag = message.delivery_tag or 0
            async with asyncio.timeout(BROKER_SECONDS):
                if not handled:
                    await self._move(channel, message, delivery)
                await channel.basic_ack(tag, wait=False)
            if handled:
                acked.add(delivery)

    async def _next(self, deliveries: asyncio.Queue[DeliveredMessage]) -> DeliveredMessage:
        """Wait for the next event.

        Raises:
            ConnectionLost: no event has arrived, and none could be handled now. The consumer ends,
                so that RabbitMQ does not send it the next event.
        """
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(UNAVAILABLE_SECONDS):
                    return await deliveries.get()
            if reason := self._event_handler.unavailable():
                raise ConnectionLost(reason)

    async def _move(self, channel: Channel, message: DeliveredMessage, delivery: Delivery) -> None:
        """Publish an event to the dead letters, with RabbitMQ's header for them.

        RabbitMQ itself would move rejected events and overflowing ones to the same queue.
        """
        properties = republished(message.header.properties)
        properties.expiration = None  # as RabbitMQ does: else it would expire there
        death: dict[str, Any] = {
            "queue": self._queue,
            "reason": "rejected",
            "time": dt.datetime.now(dt.UTC),
            "exchange": message.exchange or "",
            "routing-keys": [delivery.routing_key],
            "count": 1,
        }
        properties.headers = {**(properties.headers or {}), "x-death": [death]}
        try:
            await channel.basic_publish(
                message.body,
                routing_key=self._dead_letters,
                properties=properties,
                mandatory=True,
            )
        except DeliveryError as error:
            raise ConnectionLost(
                "the queue of dead letters does not exist, or refuses the event"
            ) from error


def queue_of(app_name: str, handler_name: str) -> str:
    """The queue of an event handler."""
    return f"{app_name}.events.{handler_name}.v1"


def dead_letter_queues(app_name: str) -> tuple[str, str]:
    """The queues for events that were not handled, and for those that did not fit."""
    return f"{app_name}.dead-letters.v1", f"{app_name}.overflow.v1"
