"""Sends from any instance to the connections of all instances."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self, overload

from bff.cluster.connection_control import ConnectionControl
from bff.cluster.context import ClusterContext
from bff.cluster.control_log import ControlLog
from bff.cluster.envelopes import Kind, envelope, start_envelope
from bff.cluster.idempotency_keys import NoKeys, NumberedKeys
from bff.cluster.index import ConnectionIndex
from bff.cluster.keys import StreamKeys
from bff.cluster.outgoing_events import OutgoingEvents
from bff.cluster.revocations import Revocations
from bff.cluster.scripts import load
from bff.connections.connection import instance_of
from bff.connections.declared_events import DeclaredEvent, DeclaredEvents
from bff.connections.messages import Event
from bff.errors import Code, Problem
from bff.names import check_connection_id, check_idempotency_key, check_lists, check_user_id

_RELEASED_SECONDS: Final = 60
"""How long Redis keeps an idempotency key after its release. A repetition in this time sends
nothing."""
_KEYS_PER_RELEASE: Final = 50


@dataclass(frozen=True, slots=True)
class Sent:
    """The result of a send, after Redis has stored the message."""

    id: str | None
    """The id of the message, `<stream>/<epoch>/<offset>`; None for what is not stored: a message to
    one connection, an event that is declared with `stored=False`."""
    addressed: int
    """The number of the recipient's connections in the index; of `to_all`, the connections of all
    instances as last reported. Some may already be closed."""


class Messenger(ConnectionControl):
    """Sends events to the connections of a user, to the subscribers of a topic, to all or to one
    connection. Closes and subscribes connections too (`ConnectionControl`).

    Declare an event with `RealtimeRouter.emits`, and pass it here called with its payload. Or pass
    a name (the parameter `topic`) and a payload: JSON types, or a Pydantic model. For `to_topic`
    the name is the topic, otherwise the name of the event.

    If the stream already has a message with this `idempotency_key`, nothing is sent, and the result
    is that of the first send (but `to_all` counts the current connections). A key is remembered for
    `POSITION_RETENTION_SECONDS` or `STREAM_RETENTION_SECONDS`, whichever is longer.

    Every method that sends raises `redis.exceptions.RedisError`, `OSError` or `TimeoutError` when
    Redis is unavailable; the message may have been sent nevertheless. It raises a `Problem` with
    `invalid_params` for an invalid user id, topic, event name or connection id (`names.py`), for an
    event that is not JSON, and, if `REQUIRE_DECLARED_EVENTS` is set, for one that is not declared;
    with `service_error` for a message that is larger than `MAX_QUEUE_BYTES`. A declared event whose
    payload has another type raises `ValueError`, and so does an `idempotency_key` for an event that
    is not stored.
    """

    def __init__(
        self,
        context: ClusterContext,
        index: ConnectionIndex,
        control_log: ControlLog,
        revocations: Revocations,
        declared: DeclaredEvents,
    ) -> None:
        super().__init__(context, index, control_log, revocations)
        self._settings = context.settings
        self._metrics = context.metrics
        self._send = load(context.pipeline, "send")
        self._key_seconds = max(
            self._settings.stream_retention_seconds, self._settings.position_retention_seconds
        )
        self._own_keys = NoKeys()
        self._outgoing = OutgoingEvents(declared)

    def idempotent(self, scope: str, seconds: int) -> Self:
        """A messenger whose nth stored send to a user, a topic or all has the idempotency key
        `<scope>/<n>`, kept for `seconds`.

        Handlers of mesh events get one, so that a mesh event that is delivered again sends no
        message twice. For this, the handler must make the same sends, in the same order for each
        user and topic. The functions of `key_releases` end the life of the keys earlier.
        """
        messenger = copy.copy(self)
        messenger._own_keys = NumberedKeys(scope, seconds)
        return messenger

    def key_releases(self) -> list[Callable[[], None]]:
        """Functions that let the keys of an idempotent messenger expire in a minute, each for some
        of its keys, so that other work can run between them. Call them when its sends cannot be
        repeated any more."""
        keys = self._own_keys.used
        return [
            partial(self._release, keys[first : first + _KEYS_PER_RELEASE])
            for first in range(0, len(keys), _KEYS_PER_RELEASE)
        ]

    def with_key_life(self, seconds: int) -> Self:
        """A messenger that remembers each `idempotency_key` for `seconds`."""
        messenger = copy.copy(self)
        messenger._key_seconds = seconds
        return messenger

    def check_event(self, topic: str, event: Any) -> None:
        """Check everything about an event except its size.

        Raises:
            Problem: `invalid_params`: the event cannot be sent.
        """
        self._outgoing.of(topic, event)

    @overload
    async def to_connection(self, connection_id: str, event: DeclaredEvent, /) -> Sent: ...
    @overload
    async def to_connection(self, connection_id: str, topic: str, event: Any) -> Sent: ...

    async def to_connection(
        self, connection_id: str, topic: str | DeclaredEvent, event: Any = None
    ) -> Sent:
        """Send to one connection. The message is not stored, so a closed connection misses it."""
        check_connection_id(connection_id)
        message, _ = self._outgoing.of(topic, event)
        text = self._text(message, None)
        channel = self._keys.instance_channel_prefix + instance_of(connection_id)
        await self._publish(channel, envelope(Kind.CONNECTION, connection_id, text))
        self._metrics.messages_sent.labels("connection").inc()
        return Sent(None, self._addressed(connection_id))

    @overload
    async def to_user(
        self, user_id: str, event: DeclaredEvent, /, *, idempotency_key: str | None = None
    ) -> Sent: ...
    @overload
    async def to_user(
        self, user_id: str, topic: str, event: Any, *, idempotency_key: str | None = None
    ) -> Sent: ...

    async def to_user(
        self,
        user_id: str,
        topic: str | DeclaredEvent,
        event: Any = None,
        *,
        idempotency_key: str | None = None,
    ) -> Sent:
        """Send to all connections of a user; stored for clients that reconnect."""
        message, stored = self._outgoing.of(topic, event)
        if stored:
            call = self._user_call(user_id, message.encode_start("user"), idempotency_key)
            sent = _sent(await self._send(*call))
        else:
            sent = await self._to_user_unstored(user_id, self._text(message, idempotency_key))
        self._metrics.messages_sent.labels("user").inc()
        return sent

    @overload
    async def to_users(
        self,
        user_ids: Iterable[str],
        event: DeclaredEvent,
        /,
        *,
        idempotency_key: str | None = None,
    ) -> list[Sent]: ...
    @overload
    async def to_users(
        self,
        user_ids: Iterable[str],
        topic: str,
        event: Any,
        *,
        idempotency_key: str | None = None,
    ) -> list[Sent]: ...

    async def to_users(
        self,
        user_ids: Iterable[str],
        topic: str | DeclaredEvent,
        event: Any = None,
        *,
        idempotency_key: str | None = None,
    ) -> list[Sent]:
        """Send to several users; one that is named twice counts once. The results are in the order
        of the users.

        Raises:
            TypeError: `user_ids` is a string instead of a list.
        """
        check_lists(user_ids=user_ids)
        message, stored = self._outgoing.of(topic, event)
        users = list(dict.fromkeys(user_ids))
        if stored:
            frame_start = message.encode_start("user")
            calls = [self._user_call(user_id, frame_start, idempotency_key) for user_id in users]
            results = await asyncio.gather(*(self._send(*call) for call in calls))
            all_sent = [_sent(result) for result in results]
        else:
            for user_id in users:
                check_user_id(user_id)
            text = self._text(message, idempotency_key)
            all_sent = await asyncio.gather(
                *(self._to_user_unstored(user_id, text) for user_id in users)
            )
        self._metrics.messages_sent.labels("user").inc(len(users))
        return all_sent

    @overload
    async def to_all(
        self, event: DeclaredEvent, /, *, idempotency_key: str | None = None
    ) -> Sent: ...
    @overload
    async def to_all(
        self, topic: str, event: Any, *, idempotency_key: str | None = None
    ) -> Sent: ...

    async def to_all(
        self, topic: str | DeclaredEvent, event: Any = None, *, idempotency_key: str | None = None
    ) -> Sent:
        """Send to every connection; stored for clients that reconnect."""
        message, stored = self._outgoing.of(topic, event)
        message_id = None
        if stored:
            keys, args = self._call(
                self._keys.all,
                message.encode_start("all"),
                start_envelope(Kind.ALL, ""),
                self._keys.all_channel,
                idempotency_key,
            )
            message_id = _sent(await self._send(keys, args)).id
        else:
            text = self._text(message, idempotency_key)
            await self._publish(self._keys.all_channel, envelope(Kind.ALL_UNSTORED, text))
        self._metrics.messages_sent.labels("all").inc()
        return Sent(message_id, self._index.count())

    @overload
    async def to_topic(
        self, event: DeclaredEvent, /, *, idempotency_key: str | None = None
    ) -> str: ...
    @overload
    async def to_topic(
        self, topic: str, event: Any, *, idempotency_key: str | None = None
    ) -> str: ...

    async def to_topic(
        self, topic: str | DeclaredEvent, event: Any = None, *, idempotency_key: str | None = None
    ) -> str:
        """Send to the topic's subscribers; stored for clients that reconnect.

        Returns the id of the message; it is empty if the event is declared with `stored=False`. The
        number of subscribers is not known: instances subscribe to a topic's channel, and the index
        does not contain topics.
        """
        message, stored = self._outgoing.of(topic, event, to_topic=True)
        stream, channel = self._keys.topic(message.topic), self._keys.topic_channel(message.topic)
        message_id = ""
        if stored:
            keys, args = self._call(
                stream,
                message.encode_start(stream.name),
                start_envelope(Kind.TOPIC, message.topic),
                channel,
                idempotency_key,
            )
            message_id = str(_sent(await self._send(keys, args)).id)
        else:
            text = self._text(message, idempotency_key)
            await self._publish(channel, envelope(Kind.TOPIC_UNSTORED, message.topic, text))
        self._metrics.messages_sent.labels("topic").inc()
        return message_id

    async def _to_user_unstored(self, user_id: str, text: str) -> Sent:
        check_user_id(user_id)
        addressed: int = await self._publish_to_user(
            [self._keys.connections(user_id)],
            [envelope(Kind.USER_UNSTORED, user_id, text), self._keys.instance_channel_prefix],
        )
        return Sent(None, addressed)

    def _text(self, message: Event, idempotency_key: str | None) -> str:
        """The text of a message that is not stored."""
        if idempotency_key is not None:
            raise ValueError(f"{message.topic} is not stored: it takes no idempotency key")
        text = message.encode()
        self._check_size(text)
        return text.decode()

    def _check_size(self, text: bytes) -> None:
        if len(text) > self._settings.max_queue_bytes:
            raise Problem(
                Code.SERVICE_ERROR,
                "The message is larger than MAX_QUEUE_BYTES: send less, or raise this setting",
            )

    async def _publish(self, channel: str, text: str) -> None:
        await self._pipeline.submit("PUBLISH", channel, text)

    def _release(self, keys: Iterable[str]) -> None:
        """Does not wait for Redis: a key that could not be released expires later, without harm."""
        for key in keys:
            self._pipeline.submit("EXPIRE", key, _RELEASED_SECONDS)

    def _user_call(
        self, user_id: str, frame_start: bytes, idempotency_key: str | None
    ) -> tuple[Sequence[str], Sequence[Any]]:
        check_user_id(user_id)
        keys, args = self._call(
            self._keys.user(user_id),
            frame_start,
            start_envelope(Kind.USER, user_id),
            self._keys.instance_channel_prefix,
            idempotency_key,
        )
        return [*keys, self._keys.connections(user_id)], args

    def _call(
        self,
        stream: StreamKeys,
        frame_start: bytes,
        envelope_start: str,
        channel: str,
        idempotency_key: str | None,
    ) -> tuple[list[str], list[Any]]:
        """The keys and arguments of `send.lua`. For the stream of a user the caller adds the key of
        the connections; the script then takes `channel` as the prefix of the instances' channels.
        """
        self._check_size(frame_start)
        if idempotency_key is not None:
            check_idempotency_key(idempotency_key)
            key, key_seconds = stream.idempotency(idempotency_key), self._key_seconds
        else:
            key, key_seconds = self._own_keys.next(stream)
        return [stream.meta, stream.stream, key], [
            frame_start,
            stream.name,
            envelope_start,
            channel,
            self._settings.max_stream_length,
            self._settings.stream_retention_seconds,
            self._settings.position_retention_seconds,
            key_seconds,
        ]


def _sent(result: list[Any]) -> Sent:
    message_id, addressed = result
    return Sent(message_id.decode(), int(addressed))
