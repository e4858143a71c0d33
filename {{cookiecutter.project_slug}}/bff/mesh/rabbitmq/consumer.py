"""The base class of queue consumers. Each has its own channel, so an error stops only one."""

from __future__ import annotations

import asyncio
import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pamqp.encode
from aiormq import Channel
from aiormq.abc import AbstractConnection, DeliveredMessage
from aiormq.exceptions import ChannelPreconditionFailed
from pamqp.commands import Basic

from bff.backoff import backoff_delays
from bff.mesh.cancellation import raise_if_cancelled
from bff.mesh.events import REDELIVERY_SECONDS
from bff.mesh.messages import Delivery
from bff.mesh.rabbitmq.connection import (
    BROKER_SECONDS,
    MAX_BACKOFF_SECONDS,
    broker_errors,
    close,
    consumer_cancelled,
    open_channel,
)
from bff.mesh.rabbitmq.settled import AckedDeliveries
from bff.mesh.transport import ConnectionLost

UNUSED_MS = REDELIVERY_SECONDS * 1000
"""A queue without a consumer is deleted after this time."""
TOPIC_HEADER = "bff_topic"
"""The topic of a dead letter that is delivered again: it comes from the default exchange."""
_MAX_TRACE_ID = 255
"""Characters of a trace id, which becomes part of replies and log lines. A longer one counts as
none."""
STABLE_SECONDS = 60
"""A consumer that ran for this long starts again after the shortest pause, and what happened before
no longer counts."""
_NOT_REPUBLISHED = frozenset({"CC", "BCC", "x-delivery-count"})
REDECLARE_SECONDS = 15
"""How often queue and binding are declared again. Deleting an exchange deletes its bindings, and
RabbitMQ does not notify consumers of that."""

logger = logging.getLogger(__name__)


class QueueConsumer(ABC):
    """Consumes one queue while its connection is open."""

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self.reason = "starting"
        """Why nothing is consumed; empty while it is. An interruption is reported only if the first
        restart fails too, or if another one follows within `STABLE_SECONDS`."""
        self._failures = 0
        self.ready = asyncio.Event()
        """Set once the queue exists and is bound: from then on it receives every message."""

    @property
    def queue(self) -> str:
        """The name of the queue."""
        return self._queue

    @abstractmethod
    async def declare(self, channel: Channel) -> None:
        """Declare exchange, queue and binding. The arguments must never change: RabbitMQ refuses
        different ones for a queue that exists."""

    @abstractmethod
    async def consume(self, connection: AbstractConnection) -> None:
        """Open a channel, declare, and consume until the channel or the queue is lost."""

    async def check(self, connection: AbstractConnection) -> None:
        """Declare the queue and test the right to consume it, for `bff doctor`.

        RabbitMQ tests the right before the arguments. So it is asked with an invalid argument: a
        message that was taken and returned would count as delivered.

        Raises:
            ConnectionLost: with the broker's error, for example a right that is missing.
        """
        with broker_errors():
            channel = await open_channel(connection, confirms=False)
            try:
                async with asyncio.timeout(BROKER_SECONDS):
                    await self.declare(channel)
                    with suppress(ChannelPreconditionFailed):
                        await channel.basic_consume(
                            self._queue, _ignore, arguments={"x-priority": "invalid"}
                        )
            finally:
                await close(channel)

    async def run(
        self, connection: AbstractConnection, on_change: Callable[[], None] = lambda: None
    ) -> None:
        """Consume, with a new channel after each error, until this task is cancelled.

        `on_change` is called when `reason` changes.
        """
        self._on_change = on_change
        loop = asyncio.get_running_loop()
        delays = backoff_delays(0.5, MAX_BACKOFF_SECONDS)
        while True:
            started, reason = loop.time(), "the consumer ended"
            try:
                with broker_errors():
                    await self.consume(connection)
            except ConnectionLost as error:
                reason = str(error)
                logger.warning(
                    "queue consumer stopped, restarting",
                    extra={"queue": self._queue, "reason": reason},
                )
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                logger.exception("queue consumer failed, restarting", extra={"queue": self._queue})
            if loop.time() - started > STABLE_SECONDS:
                delays = backoff_delays(0.5, MAX_BACKOFF_SECONDS)
                self._failures = 0
            self._failed(reason)
            await asyncio.sleep(next(delays))

    def _failed(self, reason: str) -> None:
        self._failures += 1
        if self._failures > 1 or not self.ready.is_set():
            self._report(reason)

    def _report(self, reason: str) -> None:
        if self.reason != reason:
            self.reason = reason
            self._on_change()

    async def wait_until_lost(
        self, channel: Channel, acked: AckedDeliveries, *workers: asyncio.Task[None]
    ) -> None:
        """Wait for the end of the channel, of its consumer, or of a worker.

        Raises:
            ConnectionLost: the queue or the channel no longer exists.
            Exception: the error with which the channel or a worker ended.
        """
        raise_if_cancelled()
        self.ready.set()
        self._report("")
        ends = {*workers, channel.closing, consumer_cancelled(channel)}
        while True:
            ended, _ = await asyncio.wait(
                ends, timeout=REDECLARE_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if ended:
                ended.pop().result()
                raise ConnectionLost("the queue was deleted")
            async with asyncio.timeout(BROKER_SECONDS):
                await self.declare(channel)
            await acked.command_replied()  # RabbitMQ has all that was sent on the channel before


async def _ignore(_: DeliveredMessage) -> None: ...


def republished(properties: Basic.Properties) -> Basic.Properties:
    """A copy of a received message's properties with which this process can publish it again.

    `user_id` is dropped: RabbitMQ closes the channel of a publisher that is another user. So are
    `CC` and `BCC`, to which RabbitMQ would send copies, and the count of deliveries.
    """
    properties = copy.copy(properties)
    properties.user_id = None
    properties.headers = {
        name: _encodable(value)
        for name, value in (properties.headers or {}).items()
        if name not in _NOT_REPUBLISHED
    }
    return properties


def _encodable(value: Any) -> Any:
    """A header's value as pamqp can encode it. It decodes more than it encodes: a text that is not
    UTF-8 becomes a byte array here, and a double beyond the range of a float becomes a text."""
    if isinstance(value, bytes):
        return bytearray(value)
    if isinstance(value, dict):
        return {name: _encodable(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_encodable(one) for one in value]
    try:
        pamqp.encode.encode_table_value(value)
    except (TypeError, ArithmeticError):  # OverflowError of a double
        return str(value)
    return value


def to_delivery(message: DeliveredMessage) -> Delivery:
    """Convert a message of aiormq."""
    properties = message.header.properties
    headers = properties.headers or {}
    trace_id, kind = headers.get("trace_id"), headers.get("nuropb_type")
    deliveries = headers.get("x-delivery-count")
    topic = None if message.exchange else headers.get(TOPIC_HEADER)
    return Delivery(
        routing_key=str(topic or message.routing_key or ""),
        body=message.body,
        correlation_id=properties.correlation_id or properties.message_id or "",
        trace_id=trace_id if isinstance(trace_id, str) and len(trace_id) <= _MAX_TRACE_ID else None,
        kind=kind if isinstance(kind, str) else "",
        reply_to=properties.reply_to or "",
        deliveries=deliveries if isinstance(deliveries, int) else 0,
    )
