"""From any instance to any user's sockets, on whatever instance they are."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from bff.cluster.envelopes import Kind, envelope, head
from bff.cluster.index import ConnectionIndex
from bff.cluster.keys import Keys, StreamKeys
from bff.cluster.scripts import load
from bff.connections.close_codes import CloseCode
from bff.connections.connection import instance_of
from bff.connections.messages import Event
from bff.connections.positions import TOPIC
from bff.errors import Code, Problem
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings
from bff.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Sent:
    """What is known of a message when Redis has taken it."""

    id: str | None
    """Under which it is stored, `<stream>/<epoch>/<offset>`; None for one connection."""
    addressed: int
    """How many connections the index names. Whether they still live is not knowable here."""


class Messenger:
    """Sends events to browsers and closes their sockets, by connection, user, topic or all.

    Every method raises `redis.exceptions.RedisError`, `OSError` or `TimeoutError` when Redis
    does not take the message; then nobody can tell whether it was sent.
    """

    def __init__(
        self, pipeline: AutoPipeline, index: ConnectionIndex, settings: Settings, metrics: Metrics
    ) -> None:
        self._pipeline = pipeline
        self._index = index
        self._settings = settings
        self._metrics = metrics
        self._keys = Keys(settings.prefix)
        self._send = load(pipeline, "send")
        self._tell_user = load(pipeline, "publish_to_user")
        self._next_key: Callable[[], str | None] = lambda: None

    def idempotent(self, scope: str) -> Self:
        """A messenger whose nth send counts once, however often the same scope is worked off.

        Event rules get one: an event that the broker delivers again changes nothing.
        """
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        numbers = itertools.count(1)
        twin._next_key = lambda: f"{scope}/{next(numbers)}"
        return twin

    async def to_connection(self, connection_id: str, topic: str, event: Any) -> Sent:
        """Send to one connection. The message is not stored: who is away misses it."""
        text = Event(topic, event).encode().decode()
        await self._tell(connection_id, envelope(Kind.CONNECTION, connection_id, text))
        self._metrics.messages_sent.labels("connection").inc()
        return Sent(None, self._names(connection_id))

    async def to_user(
        self, user_id: str, topic: str, event: Any, *, idempotency_key: str | None = None
    ) -> Sent:
        """Send to all connections of a user; stored for those who come back."""
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
        """Send to several users, each once; the results in the order of the users."""
        head_text = Event(topic, event).head()
        users = list(dict.fromkeys(user_ids))
        calls = [self._user_call(user_id, head_text, idempotency_key) for user_id in users]
        results = await asyncio.gather(*(self._send(*call) for call in calls))
        self._metrics.messages_sent.labels("user").inc(len(users))
        return [_sent(result) for result in results]

    async def to_all(self, topic: str, event: Any, *, idempotency_key: str | None = None) -> Sent:
        """Send to every connection; stored for those who come back."""
        keys, args = self._call(
            self._keys.all,
            Event(topic, event).head(),
            head(Kind.ALL, ""),
            self._keys.to_all,
            idempotency_key,
        )
        sent = _sent(await self._send(keys, args))
        self._metrics.messages_sent.labels("all").inc()
        return Sent(sent.id, self._index.count())

    async def to_topic(self, topic: str, event: Any, *, idempotency_key: str | None = None) -> str:
        """Send to the topic's subscribers; stored for those who come back. Returns the id.

        How many there are is not known: an instance listens to the topics that it holds, and
        nobody counts them.
        """
        keys, args = self._call(
            self._keys.topic(_checked(topic)),
            Event(topic, event).head(),
            head(Kind.TOPIC, topic),
            self._keys.to_topic(topic),
            idempotency_key,
        )
        sent = _sent(await self._send(keys, args))
        self._metrics.messages_sent.labels("topic").inc()
        assert sent.id is not None  # noqa: S101
        return sent.id

    async def subscribe(self, user_id: str, topic: str) -> int:
        """Let all present connections of a user have a topic, unasked; returns how many were
        addressed. Each is told with an event `subscribed`."""
        return await self._order(user_id, Kind.SUBSCRIBE_USER, _checked(topic))

    async def unsubscribe(self, user_id: str, topic: str) -> int:
        """Take a topic from all present connections of a user; each is told."""
        return await self._order(user_id, Kind.UNSUBSCRIBE_USER, _checked(topic))

    async def close_connection(
        self, connection_id: str, code: CloseCode = CloseCode.REVOKED
    ) -> int:
        """Close one connection; returns how many were addressed."""
        await self._tell(
            connection_id, envelope(Kind.CLOSE_CONNECTION, connection_id, str(int(code)))
        )
        return self._names(connection_id)

    async def close_user(self, user_id: str, code: CloseCode = CloseCode.REVOKED) -> int:
        """Close all connections of a user; returns how many were addressed."""
        return await self._order(user_id, Kind.CLOSE_USER, str(int(code)))

    async def close_users(
        self, user_ids: Iterable[str], code: CloseCode = CloseCode.REVOKED
    ) -> list[int]:
        """Close all connections of several users; how many were addressed of each."""
        return await asyncio.gather(
            *(self.close_user(user_id, code) for user_id in dict.fromkeys(user_ids))
        )

    async def close_all(self, code: CloseCode = CloseCode.DRAIN) -> int:
        """Close every connection of every instance; returns how many were addressed."""
        text = envelope(Kind.CLOSE_ALL, str(int(code)))
        await self._pipeline.submit("PUBLISH", self._keys.to_all, text)
        return self._index.count()

    async def _order(self, user_id: str, kind: Kind, line: str) -> int:
        addressed: int = await self._tell_user(
            [self._keys.connections(user_id)],
            [envelope(kind, user_id, line), self._keys.to_instance],
        )
        return addressed

    async def _tell(self, connection_id: str, text: str) -> None:
        channel = self._keys.to_instance + instance_of(connection_id)
        await self._pipeline.submit("PUBLISH", channel, text)

    def _names(self, connection_id: str) -> int:
        return int(self._index.is_living(instance_of(connection_id)))

    def _user_call(
        self, user_id: str, text: bytes, idempotency_key: str | None
    ) -> tuple[Sequence[str], Sequence[Any]]:
        keys, args = self._call(
            self._keys.user(user_id),
            text,
            head(Kind.USER, user_id),
            self._keys.to_instance,
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
            raise Problem(Code.SERVICE_ERROR, "The message is larger than MAX_QUEUE_BYTES")
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
        raise ValueError(f"{topic!r} is no topic: no spaces, commas or control characters")
    return topic


def _sent(result: list[Any]) -> Sent:
    message_id, addressed = result
    return Sent(message_id.decode(), int(addressed))
