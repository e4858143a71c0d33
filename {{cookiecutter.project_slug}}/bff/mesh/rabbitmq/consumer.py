"""Whatever consumes a queue of RabbitMQ on a channel of its own: what ails it harms no other."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod

from aiormq import Channel
from aiormq.abc import AbstractConnection, DeliveredMessage

from bff.backoff import backoff_delays
from bff.mesh.cancellation import ends_if_cancelled
from bff.mesh.messages import Delivery
from bff.mesh.rabbitmq.connection import (
    BROKER_SECONDS,
    LONGEST_PAUSE,
    broker_errors,
    consumer_cancelled,
)
from bff.mesh.transport import ConnectionLost

_MOST_TRACE = 255
"""Characters of a trace id that goes on: it comes back in the head of the reply."""
RENEW_SECONDS = 15
"""How often queue and binding are declared anew: an exchange that was deleted takes its bindings
along, and tells no consumer."""

logger = logging.getLogger(__name__)


class QueueConsumer(ABC):
    """Consumes one queue for as long as its connection lives."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.consumes = asyncio.Event()
        """Set once the queue is there and bound: from then on no message is missed."""

    @abstractmethod
    async def declare(self, channel: Channel) -> None:
        """Make sure that exchange, queue and binding are there. Arguments never change: RabbitMQ
        refuses other ones for a queue that exists."""

    @abstractmethod
    async def consume(self, connection: AbstractConnection) -> None:
        """Open a channel, declare, and consume until the channel or the queue is lost."""

    async def run(self, connection: AbstractConnection) -> None:
        """Consume, again and again, until the connection ends and this task is cancelled."""
        for pause in backoff_delays(0.5, LONGEST_PAUSE):
            try:
                with broker_errors():
                    await self.consume(connection)
            except ConnectionLost as error:
                logger.warning("Mesh, %s: %s", self._name, error)
            except Exception:
                logger.exception("Mesh, %s", self._name)
            await asyncio.sleep(pause)

    async def until_lost(self, channel: Channel, *workers: asyncio.Task[None]) -> None:
        """Wait for the end of the channel, of the consumer on it, or of a worker.

        Raises:
            Exception: whatever it was; always.
        """
        ends_if_cancelled()
        self.consumes.set()
        ends = {*workers, channel.closing, consumer_cancelled(channel)}
        while True:
            ended, _ = await asyncio.wait(
                ends, timeout=RENEW_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if ended:
                ended.pop().result()
                raise ConnectionLost("the queue is gone")
            async with asyncio.timeout(BROKER_SECONDS):
                await self.declare(channel)


def delivery(message: DeliveredMessage) -> Delivery:
    """What arrived, without AMQP."""
    properties = message.header.properties
    headers = properties.headers or {}
    trace_id, kind = headers.get("trace_id"), headers.get("nuropb_type")
    return Delivery(
        routing_key=message.routing_key or "",
        body=message.body,
        correlation_id=properties.correlation_id or properties.message_id or "",
        trace_id=trace_id if isinstance(trace_id, str) and len(trace_id) <= _MOST_TRACE else None,
        kind=kind if isinstance(kind, str) else "",
        reply_to=properties.reply_to or "",
    )
