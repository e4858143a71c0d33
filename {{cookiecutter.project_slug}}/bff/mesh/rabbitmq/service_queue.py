"""The queue of a service on RabbitMQ, and the consumer of one instance."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiormq import Channel
from aiormq.abc import AbstractConnection, DeliveredMessage
from aiormq.exceptions import DeliveryError

from bff.mesh.cancellation import raise_if_cancelled
from bff.mesh.messages import MalformedMessage, Message
from bff.mesh.rabbitmq.connection import (
    BROKER_SECONDS,
    broker_errors,
    close,
    declare_exchanges,
    open_channel,
)
from bff.mesh.rabbitmq.consumer import UNUSED_MS, QueueConsumer, republished, to_delivery
from bff.mesh.rabbitmq.settled import AckedDeliveries
from bff.mesh.service import Service
from bff.mesh.transport import ConnectionLost, Nacked, Receiver, Unroutable
from bff.settings import MeshSettings

CONCURRENT_CALLS = 64
"""Calls that one instance carries out at once. Others wait in the queue, for any instance."""
MAX_REDELIVERIES = 2
"""How often a redelivered call is tried again after its first try in its own queue, each time
because the process has ended. Then it is a dead letter."""
MAX_REDELIVERED = 10_000
"""Calls in the queue of redelivered calls. Beyond it the oldest is a dead letter."""

logger = logging.getLogger(__name__)

Publish = Callable[[Message], Awaitable[None]]


class ServiceConsumer(QueueConsumer):
    """Consumes calls from the queue `nuropb-<service>-sq`, which all instances share.

    The queue is declared as NuroPb declares it: a NuroPb service can replace this one. A call is
    acknowledged after its reply was published. If the instance crashes before, RabbitMQ delivers
    its calls again, and the instance that gets one moves it to the queue of `RedeliveredCalls`: a
    classic queue does not count deliveries, so a call that ends the process would end all.
    """

    prefetch = CONCURRENT_CALLS

    def __init__(
        self, settings: MeshSettings, service: Service, receiver: Receiver, publish: Publish
    ) -> None:
        super().__init__(self.queue_of(service.name))
        self._redelivered = RedeliveredCalls.queue_of(service.name)
        self._settings = settings
        self._service = service
        self._receiver = receiver
        self._publish = publish
        self._acked = AckedDeliveries()

    @staticmethod
    def queue_of(service: str) -> str:
        """The name of the queue."""
        return f"nuropb-{service}-sq"

    async def declare(self, channel: Channel) -> None:
        await declare_exchanges(channel, self._settings)
        arguments: dict[str, Any] = {"x-dead-letter-exchange": self._settings.dead_letter_exchange}
        await channel.queue_declare(self._queue, durable=True, arguments=arguments)
        exchange, name = self._settings.rpc_exchange, self._service.name
        await channel.queue_bind(self._queue, exchange, routing_key=name)
        await declare_redelivered(channel, self._redelivered, self._settings)

    async def consume(self, connection: AbstractConnection) -> None:
        channel = await open_channel(connection, confirms=True)
        self._acked = AckedDeliveries()

        async def on_call(message: DeliveredMessage) -> None:
            await self.receive(channel, message)

        try:
            async with asyncio.timeout(BROKER_SECONDS):
                await self.declare(channel)
                await channel.basic_qos(prefetch_count=self.prefetch)
                await channel.basic_consume(self._queue, on_call)
            await self.wait_until_lost(channel, self._acked)
        finally:
            await close(channel)

    async def receive(self, channel: Channel, message: DeliveredMessage) -> None:
        """Carry out a new call, move a redelivered one."""
        if message.redelivered:
            # Without a time limit: RabbitMQ delivers it again only when the channel ends, and that
            # ends this too.
            await self._settle(self._move(channel, message), seconds=None)
        else:
            await self.answer(channel, message)

    async def _move(self, channel: Channel, message: DeliveredMessage) -> None:
        tag = message.delivery_tag or 0
        try:
            await channel.basic_publish(
                message.body,
                routing_key=self._redelivered,
                properties=republished(message.header.properties),
                mandatory=True,
            )
        except DeliveryError:  # that queue was deleted, and is soon declared again
            await channel.basic_reject(tag, requeue=True, wait=False)
        else:
            await channel.basic_ack(tag, wait=False)

    async def answer(self, channel: Channel, message: DeliveredMessage) -> None:
        """Carry out a call, send its reply, and acknowledge it."""
        tag, delivery, acked = message.delivery_tag or 0, to_delivery(message), self._acked
        try:
            reply = await self._receiver.on_call(self._service, delivery)
        except MalformedMessage as error:
            logger.warning(
                "malformed call moved to the dead letters",
                extra={"service": self._service.name, "error": str(error)},
            )
            await self._settle(channel.basic_reject(tag, requeue=False, wait=False))
            return
        except (Exception, asyncio.CancelledError):
            raise_if_cancelled()
            logger.exception(
                "call failed, moved to the dead letters", extra={"service": self._service.name}
            )
            await self._settle(channel.basic_reject(tag, requeue=False, wait=False))
            return
        if reply is not None:
            await self._send(reply)
        await self._settle(channel.basic_ack(tag, wait=False))
        acked.add(delivery)

    async def _send(self, reply: Message) -> None:
        """Publish a reply. If that fails the call is still acknowledged: its work is done."""
        try:
            async with asyncio.timeout_at(reply.deadline):
                await self._publish(reply)
        except (TimeoutError, ConnectionLost, Unroutable, Nacked, ValueError) as error:
            logger.warning(
                "reply lost",
                extra={
                    "service": self._service.name,
                    "trace_id": reply.trace_id,
                    "reason": str(error) or "no connection in time",
                },
            )

    async def _settle(
        self, settling: Awaitable[None], *, seconds: float | None = BROKER_SECONDS
    ) -> None:
        try:
            with broker_errors():
                async with asyncio.timeout(seconds):
                    await settling
        except (ConnectionLost, DeliveryError) as error:
            logger.warning(
                "call not acknowledged, it will be delivered again",
                extra={"service": self._service.name, "reason": str(error)},
            )


class RedeliveredCalls(ServiceConsumer):
    """Tries calls again whose process has ended. One at a time, because RabbitMQ counts a delivery
    for each call that the process had fetched when it ended.

    After `MAX_REDELIVERIES` a call moves to NuroPb's dead letters.
    """

    prefetch = 1

    @staticmethod
    def queue_of(service: str) -> str:
        return f"{service}.redelivered-calls.v1"

    async def declare(self, channel: Channel) -> None:
        await declare_exchanges(channel, self._settings)
        await declare_redelivered(channel, self._queue, self._settings)

    async def receive(self, channel: Channel, message: DeliveredMessage) -> None:
        await self.answer(channel, message)


async def declare_redelivered(channel: Channel, queue: str, settings: MeshSettings) -> None:
    """Declare the quorum queue of redelivered calls, which counts deliveries."""
    arguments: dict[str, Any] = {
        "x-queue-type": "quorum",
        "x-max-length": MAX_REDELIVERED,
        "x-expires": UNUSED_MS,
        "x-delivery-limit": MAX_REDELIVERIES,
        "x-dead-letter-exchange": settings.dead_letter_exchange,
    }
    await channel.queue_declare(queue, durable=True, arguments=arguments)
