"""The RabbitMQ transport: one connection to publish, one to consume."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

from aiormq import Channel
from aiormq.abc import AbstractConnection, DeliveredMessage
from aiormq.exceptions import ChannelAccessRefused

from bff.mesh import wire
from bff.mesh.events import EventHandler
from bff.mesh.messages import Kind, Message
from bff.mesh.rabbitmq.connection import (
    BROKER_SECONDS,
    SupervisedConnection,
    broker_errors,
    check_publishing,
    declare_exchanges,
    find_queue,
    open_channel,
    stop_tasks,
)
from bff.mesh.rabbitmq.consumer import QueueConsumer
from bff.mesh.rabbitmq.event_queue import EventConsumer, queue_of
from bff.mesh.rabbitmq.fast_path import FastPath, MessageAssembler, Publisher
from bff.mesh.rabbitmq.service_queue import RedeliveredCalls, ServiceConsumer
from bff.mesh.service import Service
from bff.mesh.transport import ConnectionLost, MeshStatus, Receiver, Unroutable
from bff.settings import MeshSettings

CONTENT_TYPE = "application/json"
RIGHTS_SECONDS = 15
"""How often to check the right to publish. RabbitMQ tells of a right that was taken away only when
it is needed."""

MAX_UNCONFIRMED_REPLIES = 10_000
"""How many messages beyond `max_pending_requests` may be unconfirmed before a reply is refused too.
Its call has been carried out, and services work on few calls at once, so this is reached only while
RabbitMQ confirms nothing for long."""

logger = logging.getLogger(__name__)


class AmqpTransport:
    """RabbitMQ with aiormq, which calls and replies bypass (`fast_path.py`).

    Publishing and consuming have a connection each: a broker that blocks publishers (memory
    alarm) still delivers replies.
    """

    def __init__(self, settings: MeshSettings) -> None:
        self._settings = settings
        url = settings.amqp_url
        self._publishing = SupervisedConnection(
            url, "publishing", self._open_publisher, self._on_status
        )
        self._consuming = SupervisedConnection(
            url, "consuming", self._open_consumers, self._on_status
        )
        self._reply_to = ""
        self._publisher: Publisher | None = None
        self._receiver: Receiver | None = None
        self._event_handlers: Sequence[EventHandler] = ()
        self._services: Sequence[Service] = ()
        self._consumers: Sequence[QueueConsumer] = ()
        self._connection: AbstractConnection | None = None
        """The connection that consumes."""
        self._refused = ""
        """Which right to publish is missing; empty when none is."""
        self._rights_checked = asyncio.Event()

    @property
    def status(self) -> MeshStatus:
        """Connected when both connections are, and the broker lets this user publish."""
        reason = self._publishing.reason or self._consuming.reason or self._refused
        return MeshStatus(not reason, reason)

    @property
    def consumers_down(self) -> Mapping[str, str]:
        """The queues that should be consumed and are not, each with the reason."""
        return {each.queue: each.reason for each in self._consumers if each.reason}

    async def wait_until_rights_checked(self) -> None:
        await self._rights_checked.wait()

    async def check_queues(
        self, event_handlers: Sequence[EventHandler], services: Sequence[Service]
    ) -> Mapping[str, str]:
        """Declare the queues as the consumers do, and test the right to consume each."""
        assert self._receiver is not None  # noqa: S101
        await self._consuming.channel()
        reasons = {}
        for consumer in self._make_consumers(event_handlers, services, self._receiver):
            try:
                if self._connection is None:
                    raise ConnectionLost("the connection was closed")
                await consumer.check(self._connection)
                reasons[consumer.queue] = ""
            except ConnectionLost as error:
                reasons[consumer.queue] = str(error)
        return reasons

    async def unconsumed_events(self, handler_names: Iterable[str]) -> Mapping[str, int]:
        await self._consuming.channel()
        waiting = {}
        for queue in (queue_of(self._settings.app_name, name) for name in handler_names):
            if self._connection is None:
                raise ConnectionLost("the connection was closed")
            with broker_errors():
                found = await find_queue(self._connection, queue)
            if found is not None and not found.consumer_count:
                waiting[queue] = found.message_count or 0
        return waiting

    def _make_consumers(
        self,
        event_handlers: Sequence[EventHandler],
        services: Sequence[Service],
        receiver: Receiver,
    ) -> list[QueueConsumer]:
        return [
            *(EventConsumer(self._settings, handler, receiver) for handler in event_handlers),
            *(
                consumer(self._settings, service, receiver, self.publish)
                for service in services
                for consumer in (ServiceConsumer, RedeliveredCalls)
            ),
        ]

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
        """Close both connections. A cancelled event handler has 5 seconds for its clean-up."""
        await self._consuming.stop()
        await self._publishing.stop()

    async def publish(self, message: Message) -> None:
        """Publish a message and wait for the confirm, or for the `basic.return` before it.

        Raises:
            Unroutable: no queue is bound for the call.
            Nacked: a queue refused the message, which another one may have accepted.
            ConnectionLost: the connection broke before the confirm, or too many messages are
                unconfirmed.
        """
        is_call = message.is_call
        await self._publishing.channel()
        if is_call and not self._reply_to:
            await self._consuming.channel()
            await self._publishing.channel()
        if is_call and not self._reply_to:
            raise ConnectionLost("no reply queue")
        if self._publisher is None:
            raise ConnectionLost("the connection was closed")
        limit = self._settings.max_pending_requests
        if message.kind is Kind.RESPONSE:
            limit += MAX_UNCONFIRMED_REPLIES
        if self._publisher.unconfirmed >= limit:
            raise ConnectionLost("the broker does not keep up")
        message.confirm = confirm = self._publisher.publish(
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
        try:
            await confirm
        except Unroutable:
            message.sent = False
            raise

    def _exchange_of(self, message: Message) -> str:
        if message.kind is Kind.EVENT:
            return self._settings.events_exchange
        return self._settings.rpc_exchange if message.is_call else ""

    @asynccontextmanager
    async def _open_publisher(
        self, connection: AbstractConnection, fast_path: FastPath
    ) -> AsyncIterator[Channel]:
        with broker_errors():
            channel = await open_channel(connection, confirms=True)
            async with asyncio.timeout(BROKER_SECONDS):
                await declare_exchanges(channel, self._settings)
        frame_max = connection.connection_tune.frame_max
        self._publisher = publisher = Publisher(fast_path, channel.number, frame_max)
        checking = asyncio.get_running_loop().create_task(self._check_rights(connection))
        try:
            yield channel
        finally:
            self._publisher = None
            publisher.close()
            await stop_tasks(checking)

    async def _check_rights(self, connection: AbstractConnection) -> None:
        """Find out whether this user may publish, now and later, before a call needs it."""
        while True:
            try:
                with broker_errors():
                    await check_publishing(connection, self._settings)
                self._set_refused("")
            except ConnectionLost as error:
                if isinstance(error.__cause__, ChannelAccessRefused):
                    self._set_refused(str(error))
            except Exception:
                logger.exception("could not check the right to publish")
            await asyncio.sleep(RIGHTS_SECONDS)

    def _set_refused(self, reason: str) -> None:
        self._rights_checked.set()
        if reason and not self._refused:
            logger.warning("RabbitMQ refuses to publish", extra={"reason": reason})
        if reason != self._refused:
            self._refused = reason
            self._on_status()

    @asynccontextmanager
    async def _open_consumers(
        self, connection: AbstractConnection, fast_path: FastPath
    ) -> AsyncIterator[Channel]:
        """Declare a new exclusive reply queue, and consume for event handlers and services."""
        receiver = self._receiver
        assert receiver is not None  # noqa: S101
        with broker_errors():
            channel = await open_channel(connection, confirms=False)
            async with asyncio.timeout(BROKER_SECONDS):
                declared = await channel.queue_declare(exclusive=True)
                reply_to = declared.queue or ""
                fast_path.add_handler(
                    channel.number, MessageAssembler(wire.DELIVER, receiver.on_reply)
                )
                await channel.basic_consume(reply_to, _ignore, no_ack=True)
        consumers = self._make_consumers(self._event_handlers, self._services, receiver)
        loop = asyncio.get_running_loop()
        tasks = [
            loop.create_task(consumer.run(connection, self._on_status)) for consumer in consumers
        ]
        ready = loop.create_task(_all_ready(consumers))
        self._reply_to, self._consumers, self._connection = reply_to, consumers, connection
        try:
            await asyncio.wait(
                {ready, connection.closing, channel.closing},
                timeout=BROKER_SECONDS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            yield channel
        finally:
            self._reply_to, self._consumers, self._connection = "", (), None
            receiver.on_replies_lost()
            await stop_tasks(ready, *tasks, seconds=2 * BROKER_SECONDS)

    def _on_status(self) -> None:
        if self._receiver is not None:
            self._receiver.on_status()


async def _all_ready(consumers: Sequence[QueueConsumer]) -> None:
    for consumer in consumers:
        await consumer.ready.wait()


async def _ignore(message: DeliveredMessage) -> None:
    """The fast path takes the replies before aiormq sees them."""
