"""The base of what consumes a queue. Each has a channel of its own, so that errors stay apart."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod

from aiormq import Channel
from aiormq.abc import AbstractConnection, DeliveredMessage

from bff.backoff import backoff_delays
from bff.mesh.cancellation import raise_if_cancelled
from bff.mesh.messages import Delivery
from bff.mesh.rabbitmq.connection import (
    BROKER_SECONDS,
    MAX_BACKOFF_SECONDS,
    broker_errors,
    consumer_cancelled,
)
from bff.mesh.transport import ConnectionLost

_MAX_TRACE_ID = 255
"""Characters of a trace id. A longer one is ignored: it would not fit into the reply."""
REDECLARE_SECONDS = 15
"""How often queue and binding are declared again. Deleting an exchange deletes its bindings, and
RabbitMQ does not notify consumers of that."""

logger = logging.getLogger(__name__)


class QueueConsumer(ABC):
    """Consumes one queue while its connection is open."""

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self.ready = asyncio.Event()
        """Set once the queue exists and is bound: from then on it receives every message."""

    @abstractmethod
    async def declare(self, channel: Channel) -> None:
        """Declare exchange, queue and binding. The arguments must never change: RabbitMQ refuses
        different ones for a queue that exists."""

    @abstractmethod
    async def consume(self, connection: AbstractConnection) -> None:
        """Open a channel, declare, and consume until the channel or the queue is lost."""

    async def run(self, connection: AbstractConnection) -> None:
        """Consume, with a new channel after each error, until this task is cancelled."""
        for delay in backoff_delays(0.5, MAX_BACKOFF_SECONDS):
            try:
                with broker_errors():
                    await self.consume(connection)
            except ConnectionLost as error:
                logger.warning(
                    "queue consumer stopped, restarting",
                    extra={"queue": self._queue, "reason": str(error)},
                )
            except Exception:
                logger.exception("queue consumer failed, restarting", extra={"queue": self._queue})
            await asyncio.sleep(delay)

    async def wait_until_lost(self, channel: Channel, *workers: asyncio.Task[None]) -> None:
        """Wait for the end of the channel, of its consumer, or of a worker.

        Raises:
            ConnectionLost: the queue or the channel no longer exists.
            Exception: the error with which the channel or a worker ended.
        """
        raise_if_cancelled()
        self.ready.set()
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


def to_delivery(message: DeliveredMessage) -> Delivery:
    """Convert a message of aiormq."""
    properties = message.header.properties
    headers = properties.headers or {}
    trace_id, kind = headers.get("trace_id"), headers.get("nuropb_type")
    return Delivery(
        routing_key=message.routing_key or "",
        body=message.body,
        correlation_id=properties.correlation_id or properties.message_id or "",
        trace_id=trace_id if isinstance(trace_id, str) and len(trace_id) <= _MAX_TRACE_ID else None,
        kind=kind if isinstance(kind, str) else "",
        reply_to=properties.reply_to or "",
    )
