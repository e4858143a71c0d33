"""Sends from any instance to the connections of all instances."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from bff.cluster.context import ClusterContext
from bff.cluster.envelopes import Kind, envelope, head
from bff.cluster.index import ConnectionIndex
from bff.cluster.keys import StreamKeys
from bff.cluster.scripts import load
from bff.connections.close_codes import CloseCode
from bff.connections.connection import instance_of
from bff.connections.messages import Event
from bff.connections.positions import TOPIC
from bff.errors import Code, Problem


@dataclass(frozen=True, slots=True)
class Sent:
    """The result of a send, after Redis has stored the message."""

    id: str | None
    """The id of the message, `<stream>/<epoch>/<offset>`; None for a message to one connection,
    which is not stored."""
    addressed: int
    """The number of connections in the index. Some of them may already be closed."""


class Messenger:
    """Sends events to browsers and closes their sockets, by connection, user, topic or all.

    Every method raises `redis.exceptions.RedisError`, `OSError` or `TimeoutError` when Redis is
    unavailable; the message may have been sent nevertheless.
    """

    def __init__(self, context: ClusterContext, index: ConnectionIndex) -> None:
        self._pipeline = context.pipeline
        self._index = index
        self._settings = context.settings
        self._metrics = context.metrics
        self._keys = context.keys
        self._send = load(context.pipeline, "send")
        self._publish_to_user = load(context.pipeline, "publish_to_user")
        self._next_key: Callable[[], str | None] = lambda: None

    def idempotent(self, scope: str) -> Self:
        """A messenger whose nth send has the idempotency key `<scope>/<n>`.

        Event handlers get one, so that an event that is delivered again sends nothing twice.
        """
        messenger = copy.copy(self)
        numbers = itertools.count(1)
        messenger._next_key = lambda: f"{scope}/{next(numbers)}"
        return messenger

    async def to_connection(self, connection_id: str, topic: str, event: Any) -> Sent:
        """Send to one connection. The message is not stored, so a closed connection misses it."""
        text = Event(topic, event).encode().decode()
        await self._publish(connection_id, envelope(Kind.CONNECTION, connection_id, text))
        self._metrics.messages_sent.labels("connection").inc()
        return Sent(None, self._addressed(connection_id))

    async def to_user(
        self, user_id: str, topic: str, event: Any, *, idempotency_key: str | None = None
    ) -> Sent:
        """Send to all connections of a user; stored for clients that reconnect."""
        call = self._user_call(user_id, Event(topic, event).head(), idempotency_key)
        sent = _sent(await self._send(*call))
        self._metrics.messages_sent.labels("user").inc()
        return sent

    async def to_users(
        self,
        user_ids: Iterable[str],
        topic: str,
        event: Any,
        *,
        idempotency_key: str | None = None,
    ) -> list[Sent]:
        """Send to several users, once to each; the results are in the order of the users."""
        head_text = Event(topic, event).head()
        users = list(dict.fromkeys(user_ids))
        calls = [self._user_call(user_id, head_text, idempotency_key) for user_id in users]
        results = await asyncio.gather(*(self._send(*call) for call in calls))
        self._metrics.messages_sent.labels("user").inc(len(users))
        return [_sent(result) for result in results]

    async def to_all(self, topic: str, event: Any, *, idempotency_key: str | None = None) -> Sent:
        """Send to every connection; stored for clients that reconnect."""
        keys, args = self._call(
            self._keys.all,
            Event(topic, event).head(),
            head(Kind.ALL, ""),
            self._keys.all_channel,
            idempotency_key,
        )
        sent = _sent(await self._send(keys, args))
        self._metrics.messages_sent.labels("all").inc()
        return Sent(sent.id, self._index.count())

    async def to_topic(self, topic: str, event: Any, *, idempotency_key: str | None = None) -> str:
        """Send to the topic's subscribers; stored for clients that reconnect.

        Returns the id of the message. The number of subscribers is not known: instances subscribe
        to a topic's channel, and the index does not contain topics.
        """
        keys, args = self._call(
            self._keys.topic(_checked(topic)),
            Event(topic, event).head(),
            head(Kind.TOPIC, topic),
            self._keys.topic_channel(topic),
            idempotency_key,
        )
        sent = _sent(await self._send(keys, args))
        self._metrics.messages_sent.labels("topic").inc()
        assert sent.id is not None  # noqa: S101
        return sent.id

    async def subscribe(self, user_id: str, topic: str) -> int:
        """Subscribe all current connections of a user to a topic; each gets an event `subscribed`.

        Returns the number of addressed connections.
        """
        return await self._send_control(user_id, Kind.SUBSCRIBE_USER, _checked(topic))

    async def unsubscribe(self, user_id: str, topic: str) -> int:
        """Unsubscribe all current connections of a user; each gets an event `unsubscribed`.

        Returns the number of addressed connections.
        """
        return await self._send_control(user_id, Kind.UNSUBSCRIBE_USER, _checked(topic))

    async def close_connection(
        self, connection_id: str, code: CloseCode = CloseCode.REVOKED
    ) -> int:
        """Close one connection; returns the number of addressed connections."""
        await self._publish(
            connection_id, envelope(Kind.CLOSE_CONNECTION, connection_id, str(int(code)))
        )
        return self._addressed(connection_id)

    async def close_user(self, user_id: str, code: CloseCode = CloseCode.REVOKED) -> int:
        """Close all connections of a user; returns the number of addressed connections."""
        return await self._send_control(user_id, Kind.CLOSE_USER, str(int(code)))

    async def close_users(
        self, user_ids: Iterable[str], code: CloseCode = CloseCode.REVOKED
    ) -> list[int]:
        """Close all connections of several users.

        Returns the number of addressed connections of each user, in the order of the users.
        """
        return await asyncio.gather(
            *(self.close_user(user_id, code) for user_id in dict.fromkeys(user_ids))
        )

    async def close_all(self, code: CloseCode = CloseCode.DRAIN) -> int:
        """Close every connection of every instance; returns the number of addressed connections."""
        text = envelope(Kind.CLOSE_ALL, str(int(code)))
        await self._pipeline.submit("PUBLISH", self._keys.all_channel, text)
        return self._index.count()

    async def _send_control(self, user_id: str, kind: Kind, line: str) -> int:
        addressed: int = await self._publish_to_user(
            [self._keys.connections(user_id)],
            [envelope(kind, user_id, line), self._keys.instance_channel_prefix],
        )
        return addressed

    async def _publish(self, connection_id: str, text: str) -> None:
        channel = self._keys.instance_channel_prefix + instance_of(connection_id)
        await self._pipeline.submit("PUBLISH", channel, text)

    def _addressed(self, connection_id: str) -> int:
        return int(self._index.is_living(instance_of(connection_id)))

    def _user_call(
        self, user_id: str, text: bytes, idempotency_key: str | None
    ) -> tuple[Sequence[str], Sequence[Any]]:
        keys, args = self._call(
            self._keys.user(user_id),
            text,
            head(Kind.USER, user_id),
            self._keys.instance_channel_prefix,
            idempotency_key,
        )
        return [*keys, self._keys.connections(user_id)], args

    def _call(
        self,
        stream: StreamKeys,
        text: bytes,
        envelope_head: str,
        channel: str,
        idempotency_key: str | None,
    ) -> tuple[list[str], list[Any]]:
        if len(text) > self._settings.max_queue_bytes:
            raise Problem(
                Code.SERVICE_ERROR,
                "The message is larger than MAX_QUEUE_BYTES: send less, or raise this setting",
            )
        key = idempotency_key or self._next_key()
        return [stream.meta, stream.stream, stream.idempotency(key or "")], [
            text,
            stream.name,
            envelope_head,
            channel,
            self._settings.max_stream_length,
            self._settings.stream_retention_seconds,
            self._settings.position_retention_seconds,
            int(key is not None),
        ]


def _checked(topic: str) -> str:
    if TOPIC.fullmatch(topic) is None:
        raise ValueError(
            f"{topic!r} is not a topic: use 1 to 255 characters without spaces, commas "
            "and control characters"
        )
    return topic


def _sent(result: list[Any]) -> Sent:
    message_id, addressed = result
    return Sent(message_id.decode(), int(addressed))
