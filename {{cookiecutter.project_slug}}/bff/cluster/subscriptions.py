"""Which streams each connection has: its user's, that of all, and topics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from typing import Any, NamedTuple

from bff.cluster.index import ConnectionIndex
from bff.cluster.keys import Keys
from bff.cluster.pubsub_channels import PubSubChannels
from bff.cluster.stream_hub import StreamHub
from bff.cluster.stream_tracker import CatchUp, StreamTracker
from bff.cluster.streams import Page, PageOfAll, StreamReader
from bff.connections.connection import Connection
from bff.connections.messages import Event
from bff.connections.positions import Position
from bff.connections.registry import ConnectionRegistry
from bff.errors import Code, Problem
from bff.redis.client import UNAVAILABLE
from bff.settings import Settings

logger = logging.getLogger(__name__)

_SECONDS = 5.0
"""How long Redis may take to confirm that a topic is heard."""


class JoinedStream(NamedTuple):
    """One stream that a connection has joined, and what it has missed of it."""

    tracker: StreamTracker
    progress: CatchUp
    """What stands for the connection there until it is in the live flow."""
    since: Position | None
    """How far the client has read it, if it knows the stream."""
    page: Page
    """What came after that."""

    @property
    def begins_at(self) -> Position:
        """Its next message is the first that the connection gets."""
        return self.page.begins_at(self.since)


class Admission(NamedTuple):
    """A connection that is known everywhere."""

    joined: Sequence[JoinedStream]
    """The streams `user` and `all`."""
    retained: Position
    """Which greetings were current when it had joined them."""


def positions(joined: Iterable[JoinedStream]) -> dict[str, str]:
    """The id of the newest message of each stream."""
    return {one.tracker.stream: one.page.tip.id_in(one.tracker.stream) for one in joined}


def beginnings(joined: Iterable[JoinedStream]) -> dict[str, Position]:
    """Where each stream goes on: what was missed comes first, if it comes."""
    return {one.tracker.stream: one.begins_at for one in joined}


def recovered(joined: Iterable[JoinedStream]) -> dict[str, bool]:
    """Of the streams that a position was given for: whether all that followed it comes now."""
    return {one.tracker.stream: one.page.complete for one in joined if one.since is not None}


class Subscriptions:
    """Whoever calls it has checked that the user may."""

    def __init__(
        self,
        index: ConnectionIndex,
        registry: ConnectionRegistry,
        trackers: StreamHub,
        channels: PubSubChannels,
        reader: StreamReader,
        settings: Settings,
    ) -> None:
        self._index = index
        self._registry = registry
        self._hub = trackers
        self._channels = channels
        self._reader = reader
        self._most = settings.max_topics_per_connection
        self._keys = Keys(settings.prefix)
        self._tasks: set[asyncio.Task[None]] = set()
        self._pending: dict[Connection, list[set[str]]] = {}
        """Topics that connections ask for, while nobody knows yet whether they may."""

    async def enter(self, connection: Connection, since: Mapping[str, Position]) -> Admission:
        """Make a registered connection known everywhere, and join it to `user` and `all`.

        In this order no message can fall between: it joins the streams here before any instance
        can learn of it, and reads them after, and then which greetings there are. It gets nothing
        of the streams until `catch_up`.

        Raises:
            Problem: `rate_limited`, the user has too many connections.
            RedisError, OSError, TimeoutError: Redis cannot be asked.
        """
        user, everybody = self._hub.join(connection)
        as_user, as_one_of_all = (tracker.catching_up[connection] for tracker in (user, everybody))
        of_user, of_all = await self._register(connection, since)
        if of_user is None:
            await self._index.forget_dead(connection.user_id)
            of_user, of_all = await self._register(connection, since)
        if of_user is None:
            self._index.unregister(connection)
            raise Problem(Code.RATE_LIMITED, "Too many connections")
        return Admission(
            (
                JoinedStream(user, as_user, since.get("user"), of_user),
                JoinedStream(everybody, as_one_of_all, since.get("all"), of_all.page),
            ),
            of_all.retained,
        )

    async def _register(
        self, connection: Connection, since: Mapping[str, Position]
    ) -> tuple[Page | None, PageOfAll]:
        registration = self._index.register(connection, since.get("user"))
        of_all = self._reader.ask_all(since.get("all"), after=registration.entered)
        of_user = await self._index.registered(connection, registration)
        return of_user, PageOfAll.of(await of_all)

    def leave(self, connection: Connection) -> None:
        """Forget a connection, here and soon everywhere. Can be repeated."""
        self._hub.leave(connection)
        self._index.unregister(connection)

    async def catch_up(self, connection: Connection, joined: Iterable[JoinedStream]) -> None:
        """Send what was missed, and let the connection into the live flow."""
        for one in joined:
            await self._hub.follow(connection, one.tracker, one.progress, one.begins_at, one.page)

    async def subscribe(
        self, connection: Connection, topics: Mapping[str, Position | None]
    ) -> Sequence[JoinedStream]:
        """Let a connection have these topics, from the positions given or from now on.

        Their messages begin with the caller's next `await`: whatever is to stand before them must
        be sent by then. A topic that the connection has already is begun anew.

        Raises:
            Problem: `forbidden`, too many topics; `service_unavailable`, Redis is away. Then it
                has none of them.
        """
        if len(connection.topics | topics.keys()) > self._most:
            raise Problem(Code.FORBIDDEN, f"No more than {self._most} topics for one connection")
        trackers = [self._hub.join_topic(connection, topic) for topic in topics]
        progresses = [tracker.catching_up[connection] for tracker in trackers]
        try:
            async with asyncio.timeout(_SECONDS):
                pages = await self._read(topics)
        except BaseException as error:
            for topic, tracker, progress in zip(topics, trackers, progresses, strict=True):
                if tracker.catching_up.get(connection) is progress:  # nobody has begun it anew
                    self._hub.leave_topic(connection, topic)
            if isinstance(error, UNAVAILABLE):
                raise Problem(Code.SERVICE_UNAVAILABLE, "Try again") from error
            raise
        joined = [
            JoinedStream(*one)
            for one in zip(trackers, progresses, topics.values(), pages, strict=True)
        ]
        self._run(self.catch_up(connection, joined))
        return joined

    async def _read(self, topics: Mapping[str, Position | None]) -> list[Page]:
        """A page of each, read when all that is sent from then on is heard."""
        await asyncio.gather(*(self._channels.hear(self._keys.to_topic(topic)) for topic in topics))
        return await asyncio.gather(
            *(self._reader.read(self._keys.topic(topic), at) for topic, at in topics.items())
        )

    def unsubscribe(self, connection: Connection, topics: Iterable[str]) -> None:
        """Take topics back; whoever has one not is none the worse for it."""
        topics = set(topics)
        for pending in self._pending.get(connection, ()):
            pending -= topics
        for topic in topics:
            self._hub.leave_topic(connection, topic)

    def take_back(self, connection: Connection, topics: Sequence[str]) -> None:
        """Unsubscribe it unasked; it is told with `unsubscribed`."""
        self.unsubscribe(connection, topics)
        connection.send(Event("unsubscribed", {"topics": list(topics)}))

    @contextmanager
    def authorising(self, connection: Connection, topics: Iterable[str]) -> Iterator[Set[str]]:
        """While it is found out whether a connection may have topics: what is taken back meanwhile
        leaves the set that this gives."""
        pending = set(topics)
        requests = self._pending.setdefault(connection, [])
        requests.append(pending)
        try:
            yield pending
        finally:
            requests[:] = [one for one in requests if one is not pending]
            if not requests:
                del self._pending[connection]

    def subscribe_user(self, user_id: str, topic: str) -> None:
        """Let all of a user's connections here have a topic; each is told with `subscribed`."""
        for connection in self._registry.by_user(user_id):
            self._run(self._subscribe_and_tell(connection, topic))

    def unsubscribe_user(self, user_id: str, topic: str) -> None:
        """Take it back; each is told with `unsubscribed`."""
        for connection in self._registry.by_user(user_id):
            self.take_back(connection, [topic])

    async def _subscribe_and_tell(self, connection: Connection, topic: str) -> None:
        if connection.closing is not None:
            return
        try:
            joined = await self.subscribe(connection, {topic: None})
        except Problem as problem:
            logger.warning("%s is not subscribed to a topic: %s", connection.id, problem)
        else:
            event = Event("subscribed", {"positions": positions(joined)})
            connection.send(event, beginnings(joined))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("a subscription failed", exc_info=error)
