"""Sends from any instance to the connections of all instances."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self

from bff.cluster.context import ClusterContext
from bff.cluster.envelopes import Kind, envelope, head
from bff.cluster.index import ConnectionIndex
from bff.cluster.keys import StreamKeys
from bff.cluster.revocations import Revocations
from bff.cluster.scripts import load
from bff.connections.close_codes import CloseCode
from bff.connections.connection import instance_of
from bff.connections.messages import Event
from bff.errors import Code, Problem
from bff.names import (
    check_connection_id,
    check_event_name,
    check_idempotency_key,
    check_topic,
    check_user_id,
)

_RELEASED_SECONDS: Final = 60
"""The life of an idempotency key after its release. A margin, in which a repetition is harmless."""
_KEYS_PER_RELEASE: Final = 50


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

    A send with an `idempotency_key` that the same stream has had already sends nothing, and returns
    the result of the first. A key is remembered for `POSITION_RETENTION_SECONDS`.

    Every method raises `redis.exceptions.RedisError`, `OSError` or `TimeoutError` when Redis is
    unavailable; the message may have been sent nevertheless. Every method raises a `Problem` with
    `invalid_params` for what is not a user id, topic, event name or connection id (`names.py`).
    """

    def __init__(
        self, context: ClusterContext, index: ConnectionIndex, revocations: Revocations
    ) -> None:
        self._pipeline = context.pipeline
        self._index = index
        self._revocations = revocations
        self._settings = context.settings
        self._metrics = context.metrics
        self._keys = context.keys
        self._send = load(context.pipeline, "send")
        self._publish_to_user = load(context.pipeline, "publish_to_user")
        self._key_seconds = max(
            self._settings.stream_retention_seconds, self._settings.position_retention_seconds
        )
        self._own_keys = _NoKeys()

    def idempotent(self, scope: str, seconds: int) -> Self:
        """A messenger whose nth send has the idempotency key `<scope>/<n>`, for some seconds.

        Event handlers get one, so that an event that is delivered again sends nothing twice.
        `key_releases` ends the life of the keys earlier.
        """
        messenger = copy.copy(self)
        messenger._own_keys = _NumberedKeys(scope, seconds)
        return messenger

    def key_releases(self) -> list[Callable[[], None]]:
        """Of an idempotent messenger: functions to call once its sends cannot be repeated. They
        shorten the life of the keys to a minute, each for some of them."""
        keys = self._own_keys.used
        return [
            partial(self._release, keys[first : first + _KEYS_PER_RELEASE])
            for first in range(0, len(keys), _KEYS_PER_RELEASE)
        ]

    def with_key_life(self, seconds: int) -> Self:
        """A messenger that keeps the results of `idempotency_key` for some seconds."""
        messenger = copy.copy(self)
        messenger._key_seconds = seconds
        return messenger

    async def to_connection(self, connection_id: str, topic: str, event: Any) -> Sent:
        """Send to one connection. The message is not stored, so a closed connection misses it."""
        check_connection_id(connection_id)
        check_event_name(topic)
        text = Event(topic, event).encode().decode()
        await self._publish(connection_id, envelope(Kind.CONNECTION, connection_id, text))
        self._metrics.messages_sent.labels("connection").inc()
        return Sent(None, self._addressed(connection_id))

    async def to_user(
        self, user_id: str, topic: str, event: Any, *, idempotency_key: str | None = None
    ) -> Sent:
        """Send to all connections of a user; stored for clients that reconnect."""
        check_event_name(topic)
        call = self._user_call(user_id, Event(topic, event).head("user"), idempotency_key)
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
        check_event_name(topic)
        head_text = Event(topic, event).head("user")
        users = list(dict.fromkeys(user_ids))
        calls = [self._user_call(user_id, head_text, idempotency_key) for user_id in users]
        results = await asyncio.gather(*(self._send(*call) for call in calls))
        self._metrics.messages_sent.labels("user").inc(len(users))
        return [_sent(result) for result in results]

    async def to_all(self, topic: str, event: Any, *, idempotency_key: str | None = None) -> Sent:
        """Send to every connection; stored for clients that reconnect."""
        check_event_name(topic)
        keys, args = self._call(
            self._keys.all,
            Event(topic, event).head("all"),
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
        check_topic(topic)
        stream = self._keys.topic(topic)
        keys, args = self._call(
            stream,
            Event(topic, event).head(stream.name),
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
        check_user_id(user_id)
        check_topic(topic)
        addressed: int = await self._publish_to_user(
            [self._keys.connections(user_id)],
            [envelope(Kind.SUBSCRIBE_USER, user_id, topic), self._keys.instance_channel_prefix],
        )
        return addressed

    async def unsubscribe(self, user_id: str, topic: str) -> int:
        """Unsubscribe all current connections of a user; each gets an event `unsubscribed`.

        This is sent and kept as by `close_user`. Returns the number of connections in the index.
        """
        check_topic(topic)
        return await self._revoke_of_user(user_id, Kind.UNSUBSCRIBE_USER, topic)

    async def close_connection(
        self, connection_id: str, code: CloseCode = CloseCode.REVOKED
    ) -> int:
        """Close one connection; returns the number of addressed connections."""
        check_connection_id(connection_id)
        await self._revocations.publish(
            envelope(Kind.CLOSE_CONNECTION, connection_id, str(int(code)))
        )
        return self._addressed(connection_id)

    async def close_user(self, user_id: str, code: CloseCode = CloseCode.REVOKED) -> int:
        """Close all connections of a user; returns the number of connections in the index.

        This is sent to all instances, so it also reaches a connection whose entry is missing. It is
        kept in Redis for an instance that does not receive it.
        """
        return await self._revoke_of_user(user_id, Kind.CLOSE_USER, str(int(code)))

    async def close_users(
        self, user_ids: Iterable[str], code: CloseCode = CloseCode.REVOKED
    ) -> list[int]:
        """Close all connections of several users.

        Returns the number of addressed connections of each user, in the order of the users.
        """
        users = list(dict.fromkeys(user_ids))
        for user_id in users:
            check_user_id(user_id)
        return await asyncio.gather(*(self.close_user(user_id, code) for user_id in users))

    async def close_all(self, code: CloseCode = CloseCode.DRAIN) -> int:
        """Close every connection of every instance; returns the number of addressed connections."""
        text = envelope(Kind.CLOSE_ALL, str(int(code)))
        await self._revocations.publish(text)
        return self._index.count()

    async def _revoke_of_user(self, user_id: str, kind: Kind, line: str) -> int:
        check_user_id(user_id)
        indexed = self._pipeline.submit("HLEN", self._keys.connections(user_id))
        await self._revocations.publish(envelope(kind, user_id, line))
        return int(await indexed)

    async def _publish(self, connection_id: str, text: str) -> None:
        channel = self._keys.instance_channel_prefix + instance_of(connection_id)
        await self._pipeline.submit("PUBLISH", channel, text)

    def _release(self, keys: Iterable[str]) -> None:
        for key in keys:
            reply = self._pipeline.submit("EXPIRE", key, _RELEASED_SECONDS)
            reply.add_done_callback(_ignore_failure)

    def _addressed(self, connection_id: str) -> int:
        return int(self._index.is_living(instance_of(connection_id)))

    def _user_call(
        self, user_id: str, text: bytes, idempotency_key: str | None
    ) -> tuple[Sequence[str], Sequence[Any]]:
        check_user_id(user_id)
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
        if idempotency_key:
            check_idempotency_key(idempotency_key)
            key, key_seconds = stream.idempotency(idempotency_key), self._key_seconds
        else:
            key, key_seconds = self._own_keys.next(stream)
        return [stream.meta, stream.stream, key], [
            text,
            stream.name,
            envelope_head,
            channel,
            self._settings.max_stream_length,
            self._settings.stream_retention_seconds,
            self._settings.position_retention_seconds,
            key_seconds,
        ]


class _NoKeys:
    """The idempotency keys of sends that have none."""

    used: Sequence[str] = ()

    def next(self, stream: StreamKeys) -> tuple[str, int]:
        """The key of the next send, which must be in the slot of the stream, and its seconds: 0
        if it is not used."""
        return stream.idempotency(""), 0


class _NumberedKeys(_NoKeys):
    """`<scope>/1`, `<scope>/2`, ..."""

    def __init__(self, scope: str, seconds: int) -> None:
        self._scope = scope
        self._seconds = seconds
        self._list: list[str] = []
        self.used = self._list

    def next(self, stream: StreamKeys) -> tuple[str, int]:
        key = stream.idempotency(f"{self._scope}/{len(self._list) + 1}")
        self._list.append(key)
        return key, self._seconds


def _ignore_failure(reply: asyncio.Future[Any]) -> None:
    """A key that is not released lives longer."""
    if not reply.cancelled():
        reply.exception()


def _sent(result: list[Any]) -> Sent:
    message_id, addressed = result
    return Sent(message_id.decode(), int(addressed))
