"""Joins connections to streams: to their user's, to `all`, and to topics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Final

from bff.cluster.context import ClusterContext
from bff.cluster.index import ConnectionIndex
from bff.cluster.joined_streams import JoinedStream, JoinedStreams
from bff.cluster.pubsub_channels import PubSubChannels
from bff.cluster.stream_hub import StreamHub
from bff.cluster.stream_registry import StreamRegistry
from bff.cluster.streams import Page, PageWithVersions, StreamReader
from bff.connections.connection import Connection
from bff.connections.messages import Event
from bff.connections.positions import Position
from bff.errors import Code, Problem
from bff.redis.client import UNAVAILABLE
from bff.tasks import TaskSet

logger = logging.getLogger(__name__)

_SUBSCRIBE_SECONDS: Final = 5.0
"""How long Redis may take to confirm a subscription and to read the topics' streams."""


class Subscriptions:
    """Joins connections to streams and removes them. Does not authorise: the callers have checked
    that the user may have the topics."""

    def __init__(
        self,
        context: ClusterContext,
        streams: StreamRegistry,
        index: ConnectionIndex,
        hub: StreamHub,
        channels: PubSubChannels,
        reader: StreamReader,
    ) -> None:
        self._keys = context.keys
        self._registry = context.registry
        self._max_topics = context.settings.max_topics_per_connection
        self._streams = streams
        self._index = index
        self._hub = hub
        self._channels = channels
        self._reader = reader
        self._tasks = TaskSet("subscription")
        self._pending: dict[Connection, list[set[str]]] = {}
        """The topics of each subscription that has not begun yet."""

    async def join(
        self, connection: Connection, since: Mapping[str, Position]
    ) -> tuple[JoinedStreams, PageWithVersions]:
        """Join a registered connection to the streams `user` and `all`, and add it to the index.

        Whatever the outcome, the caller must call `leave` when the connection has closed.

        No message is lost while the connection joins: it joins the streams on this instance first,
        then it is added to the index, and the streams are read last. Until `catch_up` it gets no
        messages of the streams.

        Args:
            since: how far the client has read, by the name of the stream.

        Returns:
            The streams, and the page of the stream `all` with the versions of the retained
            broadcasts and of the revocations.

        Raises:
            Problem: `rate_limited`, the user has too many connections, or connects too often. Only
                the second one has a time (`retry_after_seconds`) after which to connect again.
            RedisError, OSError, TimeoutError: Redis is unavailable.
        """
        user_tracker, all_tracker = self._streams.join(connection)
        user_catch_up = user_tracker.catching_up[connection]
        all_catch_up = all_tracker.catching_up[connection]
        user_page, versions = await self._register(connection, since)
        joined = JoinedStreams(
            (
                JoinedStream(user_tracker, user_catch_up, since.get("user"), user_page),
                JoinedStream(all_tracker, all_catch_up, since.get("all"), versions.page),
            )
        )
        return joined, versions

    async def _register(
        self, connection: Connection, since: Mapping[str, Position]
    ) -> tuple[Page, PageWithVersions]:
        registered = await self._index.register(connection, since)
        if registered is None:
            await self._index.remove_dead_entries(connection.user_id)
            registered = await self._index.register(connection, since, is_retry=True)
        if registered is None:
            raise Problem(Code.RATE_LIMITED, "Too many connections")
        return registered

    async def update_entry(self, connection: Connection) -> None:
        """Write the index entry of a connection again, because its details have changed.

        Raises:
            RedisError, OSError, TimeoutError: Redis is unavailable.
        """
        await self._index.restore([connection])

    def leave(self, connection: Connection) -> None:
        """Remove a connection: from the streams and the registry of this instance now, from the
        index soon. Idempotent."""
        self._streams.leave(connection)
        self._index.unregister(connection)

    async def catch_up(self, connection: Connection, joined: Iterable[JoinedStream]) -> None:
        """Send what the connection has missed, and let it become live."""
        for one in joined:
            await self._hub.catch_up(connection, one.tracker, one.catch_up, one.begins_at, one.page)

    async def subscribe(
        self, connection: Connection, topics: Mapping[str, Position | None]
    ) -> JoinedStreams:
        """Subscribe a connection to topics, from the given positions or from now on.

        Messages that were missed are sent by a background task. Send the response before you
        await anything: otherwise these messages may come before it. If the connection is already
        subscribed to a topic, it starts again at the position.

        Raises:
            Problem: `forbidden`, too many topics; `service_unavailable`, Redis is unavailable;
                `cancelled`, a topic was unsubscribed meanwhile, or the connection is closed. With
                `forbidden` nothing changes; with the others these topics are unsubscribed, also
                those subscribed before, unless a newer request has subscribed them again.
        """
        if connection.close_code is not None:  # it may have left already, and would not leave again
            raise _unsubscribed()
        if len(connection.topics | topics.keys()) > self._max_topics:
            raise Problem(
                Code.FORBIDDEN, f"No more than {self._max_topics} topics for one connection"
            )
        trackers = [self._streams.join_topic(connection, topic) for topic in topics]
        catch_ups = [tracker.catching_up[connection] for tracker in trackers]
        try:
            async with asyncio.timeout(_SUBSCRIBE_SECONDS):
                pages = await self._read(topics)
            if not topics.keys() <= connection.topics:
                raise _unsubscribed()
        except BaseException as error:
            for topic, tracker, catch_up in zip(topics, trackers, catch_ups, strict=True):
                if tracker.catching_up.get(connection) is catch_up:  # no newer subscription
                    self._streams.leave_topic(connection, topic)
            if isinstance(error, UNAVAILABLE):
                raise Problem(Code.SERVICE_UNAVAILABLE, "Try again") from error
            raise
        joined = JoinedStreams(
            JoinedStream(*one)
            for one in zip(trackers, catch_ups, topics.values(), pages, strict=True)
        )
        self._tasks.start(self.catch_up(connection, joined))
        return joined

    async def _read(self, topics: Mapping[str, Position | None]) -> list[Page]:
        """Read a page of each topic, after this instance has subscribed to their channels."""
        await asyncio.gather(
            *(self._channels.subscribe(self._keys.topic_channel(topic)) for topic in topics)
        )
        return await asyncio.gather(
            *(self._reader.read(self._keys.topic(topic), at) for topic, at in topics.items())
        )

    def unsubscribe(self, connection: Connection, topics: Iterable[str]) -> None:
        """Unsubscribe a connection from topics, also from pending requests. Idempotent."""
        topics = set(topics)
        for pending in self._pending.get(connection, ()):
            pending.difference_update(topics)
        for topic in topics:
            self._streams.leave_topic(connection, topic)

    def revoke(self, connection: Connection, topics: Sequence[str]) -> None:
        """Unsubscribe a connection that has not asked for it, and tell it by an event
        `unsubscribed`."""
        self.unsubscribe(connection, topics)
        connection.send(Event("unsubscribed", {"topics": list(topics)}))

    @contextmanager
    def cancelled_by_unsubscribe(self, connection: Connection, topics: Set[str]) -> Iterator[None]:
        """Use around what precedes `subscribe`: the authorisation of a request, or the admission of
        a connection that begins with topics.

        Raises:
            Problem: `cancelled`, a topic was unsubscribed meanwhile.
        """
        pending = self._add_pending(connection, topics)
        try:
            yield
            if len(pending) < len(topics):
                raise _unsubscribed()
        finally:
            self._remove_pending(connection, pending)

    def _add_pending(self, connection: Connection, topics: Iterable[str]) -> set[str]:
        pending = set(topics)
        self._pending.setdefault(connection, []).append(pending)
        return pending

    def _remove_pending(self, connection: Connection, pending: set[str]) -> None:
        others = [one for one in self._pending[connection] if one is not pending]
        if others:
            self._pending[connection] = others
        else:
            del self._pending[connection]

    def subscribe_user(self, user_id: str, topic: str) -> None:
        """Subscribe the user's connections on this instance, in the background, and send an event
        `subscribed` to each that was not subscribed. A failure is only logged."""
        for connection in self._registry.by_user(user_id):
            pending = self._add_pending(connection, {topic})
            self._tasks.start(self._subscribe_and_notify(connection, topic, pending))

    def unsubscribe_user(self, user_id: str, topic: str) -> None:
        """Unsubscribe the user's connections on this instance, and send each an event
        `unsubscribed`."""
        for connection in self._registry.by_user(user_id):
            self.revoke(connection, [topic])

    async def stop(self) -> None:
        """Cancel the tasks that subscribe connections and send them what they have missed."""
        await self._tasks.stop()

    async def _subscribe_and_notify(
        self, connection: Connection, topic: str, pending: set[str]
    ) -> None:
        self._remove_pending(connection, pending)
        if connection.close_code is not None or not pending or topic in connection.topics:
            return
        try:
            joined = await self.subscribe(connection, {topic: None})
        except Problem as problem:
            if problem.code is Code.CANCELLED:
                return
            logger.warning(
                "could not subscribe connection to topic",
                extra={
                    "connection": connection.id,
                    "user": connection.user_id,
                    "topic": topic,
                    "reason": str(problem),
                },
            )
        else:
            event = Event("subscribed", {"positions": joined.positions()})
            # The cursor becomes the `id` of the event if the connection is an event stream.
            connection.send(event, cursor=joined.cursor())


def _unsubscribed() -> Problem:
    return Problem(Code.CANCELLED, "Unsubscribed before the subscription was complete")
