"""The queue of a service on RabbitMQ, and the consumer of one instance."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiormq import Channel
from aiormq.abc import AbstractConnection, DeliveredMessage

from bff.mesh.cancellation import raise_if_cancelled
from bff.mesh.messages import MalformedMessage, Message
from bff.mesh.rabbitmq.connection import (
    BROKER_SECONDS,
    broker_errors,
    close,
    declare_exchanges,
    open_channel,
)
from bff.mesh.rabbitmq.consumer import QueueConsumer, to_delivery
from bff.mesh.service import Service
from bff.mesh.transport import ConnectionLost, Receiver, Unroutable
from bff.settings import MeshSettings

CONCURRENT_CALLS = 64
"""Calls that one instance carries out at once. Others wait in the queue, for any instance."""

logger = logging.getLogger(__name__)

Publish = Callable[[Message], Awaitable[None]]


class ServiceConsumer(QueueConsumer):
    """Consumes calls from the queue `nuropb-<service>-sq`, which all instances share.

    The queue is declared as NuroPb declares it: a NuroPb service can replace this one. A call is
    acknowledged after its reply was published. If the instance crashes before, the call is
    delivered to another instance.
    """

    def __init__(
        self, settings: MeshSettings, service: Service, receiver: Receiver, publish: Publish
    ) -> None:
        super().__init__(f"nuropb-{service.name}-sq")
        self._settings = settings
        self._service = service
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
            await self.wait_until_lost(channel)
        finally:
            await close(channel)

    async def _answer(self, channel: Channel, message: DeliveredMessage) -> None:
        tag = message.delivery_tag or 0
        try:
            reply = await self._receiver.on_call(self._service, to_delivery(message))
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

    async def _send(self, reply: Message) -> None:
        """Publish a reply. If that fails the call is still acknowledged: its work is done."""
        try:
            async with asyncio.timeout_at(reply.deadline):
                await self._publish(reply)
        except (TimeoutError, ConnectionLost, Unroutable, ValueError) as error:
            logger.warning(
                "reply lost",
                extra={
                    "service": self._service.name,
                    "trace_id": reply.trace_id,
                    "reason": str(error) or "no connection in time",
                },
            )

    async def _settle(self, settling: Awaitable[None]) -> None:
        try:
            with broker_errors():
                async with asyncio.timeout(BROKER_SECONDS):
                    await settling
        except ConnectionLost as error:
            logger.warning(
                "call not acknowledged, it will be delivered again",
                extra={"service": self._service.name, "reason": str(error)},
            )
