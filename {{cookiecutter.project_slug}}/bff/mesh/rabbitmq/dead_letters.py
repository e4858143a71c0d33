"""Reads the dead letters of the event handlers, and delivers them again or deletes them."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeVar

import aiormq
from aiormq import Channel
from aiormq.abc import AbstractConnection, DeliveredMessage
from aiormq.exceptions import DeliveryError
from yarl import URL

from bff.mesh.rabbitmq.connection import (
    BROKER_SECONDS,
    broker_errors,
    close,
    find_queue,
    open_channel,
    with_heartbeat,
)
from bff.mesh.rabbitmq.consumer import TOPIC_HEADER, republished
from bff.mesh.rabbitmq.event_queue import dead_letter_queues, queue_of
from bff.mesh.rabbitmq.fast_path import FastPath
from bff.mesh.transport import ConnectionLost
from bff.setting_types import each_host
from bff.settings import MeshSettings

T = TypeVar("T")

_MAX_LETTERS = 10_000
"""How many letters of a queue are read."""
_MAX_READS = 10
"""RabbitMQ 4 deletes a message of a quorum queue that was returned 20 times. One that was read so
often is published again instead, which resets the count."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that its handler did not handle."""

    id: str
    """Ids of equal letters are equal."""
    handler: str
    topic: str
    reason: str
    """RabbitMQ's: `rejected` by the handler, `maxlen` or `delivery_limit`."""
    died_at: dt.datetime
    body: bytes
    kept_in: str
    """The queue that the letter is in."""
    message: DeliveredMessage


class DeadLetterQueue:
    """The letters in the queue. While it is open, other readers do not get them.

    Its methods raise `ConnectionLost` when the connection ends or RabbitMQ does not answer in time.
    """

    def __init__(
        self, settings: MeshSettings, connection: AbstractConnection, channel: Channel
    ) -> None:
        self._app = settings.app_name
        self._queues = dead_letter_queues(settings.app_name)
        self._connection = connection
        self._channel = channel
        self._open: dict[int, DeadLetter] = {}
        """By delivery tag: the letters that were read, and neither replayed nor dropped."""

    async def read(self) -> list[DeadLetter]:
        """All letters of a queue, the oldest first; then those of the overflow."""
        for queue in self._queues:
            with broker_errors():
                if await find_queue(self._connection, queue) is None:
                    continue
            # The number of messages in the broker's answer can be an old one.
            for _ in range(_MAX_LETTERS):
                message = await _in_time(self._channel.basic_get(queue))
                if message.delivery_tag is None:
                    break
                self._open[message.delivery_tag] = self._letter(queue, message)
        return list(self._open.values())

    async def replay(self, letter: DeadLetter) -> bool:
        """Deliver an event to its handler again, and only to it. Its id stays the same, so what the
        handler has already sent is not sent twice.

        Returns False, and keeps the letter, when the handler's queue does not exist.
        """
        properties = _without_death(letter)
        queue = queue_of(self._app, letter.handler)
        try:
            await _in_time(
                self._channel.basic_publish(
                    letter.body, routing_key=queue, properties=properties, mandatory=True
                )
            )
        except DeliveryError:
            return False
        await self.drop(letter)
        return True

    async def drop(self, letter: DeadLetter) -> None:
        """Delete a letter."""
        tag = letter.message.delivery_tag or 0
        await _in_time(self._channel.basic_ack(tag))
        self._open.pop(tag, None)

    async def renew(self) -> None:
        """Publish the letters again that were read often."""
        for tag, letter in tuple(self._open.items()):
            headers = letter.message.header.properties.headers or {}
            reads = headers.get("x-delivery-count")
            if isinstance(reads, int) and reads >= _MAX_READS:
                await _in_time(
                    self._channel.basic_publish(
                        letter.body,
                        routing_key=letter.kept_in,
                        properties=republished(letter.message.header.properties),
                        mandatory=True,
                    )
                )
                await _in_time(self._channel.basic_ack(tag))
                del self._open[tag]

    async def put_back(self) -> None:
        """Return the letters that are left, and wait until RabbitMQ shows them to other readers."""
        if not self._open:
            return
        await _in_time(self._channel.basic_nack(max(self._open), multiple=True, requeue=True))
        kept = {letter.kept_in for letter in self._open.values()}
        with suppress(TimeoutError):
            async with asyncio.timeout(BROKER_SECONDS):
                while await self._waiting(kept) < len(self._open):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    async def _waiting(self, queues: set[str]) -> int:
        declared = [
            await _in_time(self._channel.queue_declare(queue, passive=True)) for queue in queues
        ]
        return sum(one.message_count or 0 for one in declared)

    def _letter(self, kept_in: str, message: DeliveredMessage) -> DeadLetter:
        properties = message.header.properties
        headers = properties.headers or {}
        deaths = headers.get("x-death")
        death: Any = deaths[0] if isinstance(deaths, list) and deaths else {}
        keys = death.get("routing-keys") or [message.routing_key]
        queue = str(death.get("queue", ""))
        replayed_topic = headers.get(TOPIC_HEADER)
        digest = blake2b(message.body, digest_size=8)
        digest.update((properties.correlation_id or "").encode())
        return DeadLetter(
            id=digest.hexdigest(),
            handler=queue.removeprefix(f"{self._app}.events.").removesuffix(".v1"),
            topic=str(replayed_topic or keys[0]),
            reason=str(death.get("reason", "unknown")),
            died_at=death.get("time") or dt.datetime.fromtimestamp(0, dt.UTC),
            body=message.body,
            kept_in=kept_in,
            message=message,
        )


@asynccontextmanager
async def open_dead_letters(settings: MeshSettings) -> AsyncIterator[DeadLetterQueue]:
    """Connect to the dead letters. What is neither replayed nor dropped stays in the queue.

    Raises:
        ConnectionLost: RabbitMQ cannot be reached, or the connection ended.
    """
    connection = await _connect(settings)
    try:
        with broker_errors():
            channel = await open_channel(connection, confirms=True)
        letters = DeadLetterQueue(settings, connection, channel)
        yield letters
        await letters.renew()
        await letters.put_back()
    finally:
        await close(connection)


async def _in_time(answer: Awaitable[T]) -> T:
    """
    Raises:
        ConnectionLost: the connection or the channel ended, or there was no answer in time.
    """
    with broker_errors():
        async with asyncio.timeout(BROKER_SECONDS):
            return await answer


async def _connect(settings: MeshSettings) -> AbstractConnection:
    lost = ConnectionLost("no host")
    for url in each_host(settings.amqp_url):
        try:
            with broker_errors():
                async with asyncio.timeout(BROKER_SECONDS):
                    return await aiormq.connect(
                        with_heartbeat(URL(url)), transport_factory=FastPath()
                    )
        except ConnectionLost as error:
            lost = error
    raise lost


def _without_death(letter: DeadLetter) -> Any:
    """The properties of the original message, with its topic."""
    properties = republished(letter.message.header.properties)
    properties.headers = {
        name: value
        for name, value in (properties.headers or {}).items()
        if not name.startswith("x-")
    }
    properties.headers[TOPIC_HEADER] = letter.topic
    return properties
