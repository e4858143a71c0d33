"""The queue of a service on RabbitMQ, as NuroPb declares it, and one instance's consumer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiormq import Channel
from aiormq.abc import AbstractConnection, DeliveredMessage

from bff.mesh.cancellation import ends_if_cancelled
from bff.mesh.messages import MalformedMessage, Message
from bff.mesh.rabbitmq.connection import (
    BROKER_SECONDS,
    broker_errors,
    close,
    declare_exchanges,
    open_channel,
)
from bff.mesh.rabbitmq.consumer import QueueConsumer, delivery
from bff.mesh.service import Service
from bff.mesh.transport import ConnectionLost, Receiver, Unroutable
from bff.settings import MeshSettings

CONCURRENT_CALLS = 64
"""Calls that one instance works on at once; the others wait in the queue, for any instance."""

logger = logging.getLogger(__name__)

Publish = Callable[[Message], Awaitable[None]]


class ServiceConsumer(QueueConsumer):
    """Takes calls from the queue `nuropb-<service>-sq`; instances share it.

    It is declared as NuroPb declares it, so that a NuroPb service can take its place. A call is
    acknowledged when its reply is with the broker: if the instance dies before, another has it.
    """

    def __init__(
        self, settings: MeshSettings, service: Service, receiver: Receiver, publish: Publish
    ) -> None:
        super().__init__(f"service {service.name}")
        self._settings = settings
        self._service = service
        self._queue = f"nuropb-{service.name}-sq"
        self._receiver = receiver
        self._publish = publish

    async def declare(self, channel: Channel) -> None:
        await declare_exchanges(channel, self._settings)
        arguments: dict[str, Any] = {"x-dead-letter-exchange": self._settings.dead_letter_exchange}
        await channel.queue_declare(self._queue, durable=True, arguments=arguments)
        exchange, name = self._settings.rpc_exchange, self._service.name
        await channel.queue_bind(self._queue, exchange, routing_key=name)

    async def consume(self, connection: AbstractConnection) -> None:
        channel = await open_channel(connection, confirms=False)

        async def on_call(message: DeliveredMessage) -> None:
            await self._answer(channel, message)

        try:
            async with asyncio.timeout(BROKER_SECONDS):
                await self.declare(channel)
                await channel.basic_qos(prefetch_count=CONCURRENT_CALLS)
                await channel.basic_consume(self._queue, on_call)
            await self.until_lost(channel)
        finally:
            await close(channel)

    async def _answer(self, channel: Channel, message: DeliveredMessage) -> None:
        tag = message.delivery_tag or 0
        try:
            reply = await self._receiver.on_call(self._service, delivery(message))
        except MalformedMessage as error:
            logger.warning("%s: a message to the dead letters: %s", self._name, error)
            await self._settle(channel.basic_reject(tag, requeue=False, wait=False))
            return
        except (Exception, asyncio.CancelledError):
            ends_if_cancelled()
            logger.exception("%s: a message to the dead letters", self._name)
            await self._settle(channel.basic_reject(tag, requeue=False, wait=False))
            return
        if reply is not None:
            await self._send(reply)
        await self._settle(channel.basic_ack(tag, wait=False))

    async def _send(self, reply: Message) -> None:
        """The work is done: a reply that cannot be sent is no reason to do it again."""
        try:
            async with asyncio.timeout_at(reply.deadline):
                await self._publish(reply)
        except (TimeoutError, ConnectionLost, Unroutable, ValueError) as error:
            reason = str(error) or "no connection in time"
            logger.warning("%s: a reply is lost (trace %s): %s", self._name, reply.trace_id, reason)

    async def _settle(self, settling: Awaitable[None]) -> None:
        try:
            with broker_errors():
                async with asyncio.timeout(BROKER_SECONDS):
                    await settling
        except ConnectionLost as error:
            logger.warning("%s: a call will come again: %s", self._name, error)
