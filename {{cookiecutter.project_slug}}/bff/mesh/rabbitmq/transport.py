"""The mesh on RabbitMQ: one connection to publish, one to consume."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from aiormq import Channel
from aiormq.abc import AbstractConnection, DeliveredMessage

from bff.mesh import wire
from bff.mesh.events import EventHandler
from bff.mesh.messages import Kind, Message
from bff.mesh.rabbitmq.connection import (
    BROKER_SECONDS,
    SupervisedConnection,
    broker_errors,
    declare_exchanges,
    end,
    open_channel,
)
from bff.mesh.rabbitmq.consumer import QueueConsumer
from bff.mesh.rabbitmq.event_queue import EventConsumer
from bff.mesh.rabbitmq.fast_path import Contents, FastPath, Publisher
from bff.mesh.rabbitmq.service_queue import ServiceConsumer
from bff.mesh.service import Service
from bff.mesh.transport import ConnectionLost, MeshStatus, Receiver
from bff.settings import MeshSettings

CONTENT_TYPE = "application/json"


class AmqpTransport:
    """RabbitMQ through aiormq, with calls and replies on a lane past it.

    Publishing and consuming are apart, so that a broker that throttles publishers (a memory
    alarm) still delivers replies.
    """

    def __init__(self, settings: MeshSettings) -> None:
        self._settings = settings
        url = settings.amqp_url
        self._publishing = SupervisedConnection(url, "publishing", self._publisher, self._changed)
        self._consuming = SupervisedConnection(url, "consuming", self._consumer, self._changed)
        self._reply_to = ""
        self._out: Publisher | None = None
        self._receiver: Receiver | None = None
        self._event_handlers: Sequence[EventHandler] = ()
        self._services: Sequence[Service] = ()

    @property
    def status(self) -> MeshStatus:
        """Connected when both connections are."""
        reason = self._publishing.reason or self._consuming.reason
        return MeshStatus(not reason, reason)

    async def start(
        self,
        receiver: Receiver,
        event_handlers: Sequence[EventHandler],
        services: Sequence[Service],
    ) -> None:
        """Begin to connect."""
        self._receiver, self._event_handlers, self._services = receiver, event_handlers, services
        self._publishing.start()
        self._consuming.start()

    async def stop(self) -> None:
        """Close both connections; each has a few seconds."""
        await self._consuming.stop()
        await self._publishing.stop()

    async def publish(self, message: Message) -> None:
        """Publish with a confirm; `basic.return` comes before it, so no call waits in vain.

        Raises:
            Unroutable: no queue took the call.
            ConnectionLost: the connection broke before the confirm, or too much is unconfirmed.
        """
        is_call = message.is_call
        await self._publishing.channel()
        if is_call and not self._reply_to:
            await self._consuming.channel()
            await self._publishing.channel()
        if is_call and not self._reply_to:
            raise ConnectionLost("no reply queue")
        if self._out is None:
            raise ConnectionLost("the connection was closed")
        if self._out.unconfirmed >= self._settings.max_pending_requests:
            raise ConnectionLost("the broker does not keep up")
        confirm = self._out.publish(
            message.correlation_id,
            message.body,
            exchange=self._exchange_of(message),
            routing_key=message.routing_key,
            mandatory=is_call,
            properties=wire.properties(
                content_type=CONTENT_TYPE,
                headers=message.headers,
                correlation_id=message.correlation_id,
                reply_to=self._reply_to if is_call else "",
                expiration=message.expiration,
                message_id=message.correlation_id,
            ),
        )
        message.sent = True
        await confirm

    def _exchange_of(self, message: Message) -> str:
        if message.kind is Kind.EVENT:
            return self._settings.events_exchange
        return self._settings.rpc_exchange if message.is_call else ""

    @asynccontextmanager
    async def _publisher(
        self, connection: AbstractConnection, lane: FastPath
    ) -> AsyncIterator[Channel]:
        with broker_errors():
            channel = await open_channel(connection, confirms=True)
            async with asyncio.timeout(BROKER_SECONDS):
                await declare_exchanges(channel, self._settings)
        out = Publisher(lane, channel.number, connection.connection_tune.frame_max)
        self._out = out
        try:
            yield channel
        finally:
            self._out = None
            out.end()

    @asynccontextmanager
    async def _consumer(
        self, connection: AbstractConnection, lane: FastPath
    ) -> AsyncIterator[Channel]:
        """The reply queue, new and exclusive, and a consumer for each rule and service."""
        receiver = self._receiver
        assert receiver is not None  # noqa: S101
        with broker_errors():
            channel = await open_channel(connection, confirms=False)
            async with asyncio.timeout(BROKER_SECONDS):
                await declare_exchanges(channel, self._settings)
                declared = await channel.queue_declare(exclusive=True, auto_delete=True)
                reply_to = declared.queue or ""
                lane.take(channel.number, Contents(wire.DELIVER, receiver.on_reply))
                await channel.basic_consume(reply_to, _never, no_ack=True)
        consumers: list[QueueConsumer] = [
            *(
                EventConsumer(self._settings, event_handler, receiver)
                for event_handler in self._event_handlers
            ),
            *(
                ServiceConsumer(self._settings, service, receiver, self.publish)
                for service in self._services
            ),
        ]
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(consumer.run(connection)) for consumer in consumers]
        self._reply_to = reply_to
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(BROKER_SECONDS):
                    for consumer in consumers:
                        await consumer.consumes.wait()
            yield channel
        finally:
            self._reply_to = ""
            receiver.on_replies_lost()
            await end(*tasks)

    def _changed(self) -> None:
        if self._receiver is not None:
            self._receiver.on_status()


async def _never(message: DeliveredMessage) -> None:
    """Replies come over the lane."""
