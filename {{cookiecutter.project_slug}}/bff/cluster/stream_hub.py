"""The streams that this instance's sockets follow: in order, without holes, or with a word."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from bff.cluster.index import ConnectionIndex
from bff.cluster.keys import Keys, StreamKeys
from bff.cluster.pubsub_channels import PubSubChannels
from bff.cluster.stream_tracker import CatchUp, StreamTracker, gap
from bff.cluster.streams import Page, StreamReader
from bff.connections.close_codes import CloseCode
from bff.connections.connection import Connection
from bff.connections.frames import Frame
from bff.connections.positions import Position
from bff.connections.registry import ConnectionRegistry
from bff.redis.client import UNAVAILABLE
from bff.settings import Settings
from bff.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

_BATCH: Final = 500
"""Streams that are compared with Redis in one round trip."""
_UNDER_WAY: Final = 128 * 1024
"""Bytes of what was missed that may wait in a socket's transport."""
_DRAIN_SECONDS: Final = 30.0
"""How long a socket that catches up may take to make room."""


class StreamHub:
    """Gives every stream's messages to its connections: each once, in the order of the offsets.

    A message with the next offset is delivered, an earlier one dropped; at a later one the hole
    is read from Redis first. What Redis has no more is told by `gap`. A connection that joins
    reads pages until it is where the live flow is; between that look and the flow nothing awaits.
    """

    def __init__(
        self,
        index: ConnectionIndex,
        registry: ConnectionRegistry,
        channels: PubSubChannels,
        reader: StreamReader,
        missed: asyncio.Event,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        """`missed` is set by whoever knows that messages may have passed this instance by."""
        self._index = index
        self._registry = registry
        self._channels = channels
        self._reader = reader
        self._metrics = metrics
        self._keys = Keys(settings.prefix)
        self._check_seconds = settings.stream_check_seconds
        self._missed = missed
        self._all = StreamTracker("all", "")
        self._users: dict[str, StreamTracker] = {}
        self._topics: dict[str, StreamTracker] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # Which streams there are

    def of_all(self) -> StreamTracker:
        """The stream of everybody."""
        return self._all

    def of_user(self, user_id: str) -> StreamTracker | None:
        """A user's stream, if the user is here."""
        return self._users.get(user_id)

    def of_topic(self, topic: str) -> StreamTracker | None:
        """A topic's stream, if a subscriber is here."""
        return self._topics.get(topic)

    def join(self, connection: Connection) -> tuple[StreamTracker, StreamTracker]:
        """Enter a registered connection into the streams of its user and of all; it gets nothing
        of either until it is brought up to them by `follow`."""
        user_id = connection.user_id
        tracker = self._users.get(user_id)
        if tracker is None:
            tracker = self._users[user_id] = StreamTracker("user", user_id)
        for each in (tracker, self._all):
            each.catching_up[connection] = CatchUp()
        return tracker, self._all

    def join_topic(self, connection: Connection, topic: str) -> StreamTracker:
        """The same for a topic; whoever was in it already is brought up to it anew."""
        tracker = self._topics.get(topic)
        if tracker is None:
            tracker = self._topics[topic] = StreamTracker(f"topic:{topic}", topic)
        tracker.catching_up[connection] = CatchUp()
        self._registry.subscribe(connection, topic)
        return tracker

    def leave(self, connection: Connection) -> None:
        """Let a connection go, from the registry too. Can be repeated."""
        for topic in connection.topics:
            self.leave_topic(connection, topic)
        self._registry.unregister(connection)
        self._all.catching_up.pop(connection, None)
        tracker = self._users.get(connection.user_id)
        if tracker is not None:
            tracker.catching_up.pop(connection, None)
            if not self._registry.by_user(tracker.reader):
                self._users.pop(tracker.reader).position = None

    def leave_topic(self, connection: Connection, topic: str) -> None:
        """Let a connection go from a topic. Can be repeated."""
        self._registry.unsubscribe(connection, topic)
        tracker = self._topics.get(topic)
        if tracker is not None:
            tracker.catching_up.pop(connection, None)
            if not self._registry.by_topic(topic):
                self._topics.pop(topic).position = None

    def keys_of(self, tracker: StreamTracker) -> StreamKeys:
        """Where Redis holds the stream."""
        if tracker.stream == "user":
            return self._keys.user(tracker.reader)
        return self._keys.topic(tracker.reader) if tracker.reader else self._keys.all

    def _connections(self, tracker: StreamTracker) -> Sequence[Connection]:
        if tracker.stream == "user":
            return self._registry.by_user(tracker.reader)
        return (
            self._registry.by_topic(tracker.reader)
            if tracker.reader
            else self._registry.everybody()
        )

    # The live flow

    def hear(self, tracker: StreamTracker, position: Position, text: bytes) -> int:
        """A message has come through Redis; returns how many connections it was written to."""
        at = tracker.position
        if at is None:
            tracker.heard = position
        elif position.epoch == at.epoch and position.offset == at.offset + 1:
            return self._deliver(tracker, position, text)
        elif position.epoch != at.epoch or position.offset > at.offset:
            tracker.heard = position
            self._fill_gap(tracker)
        return 0

    def _deliver(self, tracker: StreamTracker, position: Position, text: bytes) -> int:
        tracker.position = position
        connections = self._connections(tracker)
        if tracker.catching_up:
            connections = [one for one in connections if tracker.is_live(one)]
        frame = Frame(text, {tracker.stream: position})
        Connection.send_to_each(connections, frame)
        self._metrics.deliveries.inc(len(connections))
        return len(connections)

    # Holes

    async def run(self) -> None:
        """Compare every stream with Redis, spread over `STREAM_CHECK_SECONDS`; all at once when
        something may have been missed. Channels of topics that nobody here has are dropped."""
        while True:
            batches = self._batches()
            for batch in batches:
                if await self._is_asked(within=self._check_seconds / len(batches)):
                    self._missed.clear()
                    batches = self._batches()
                    break
                await asyncio.gather(*(self._compare(tracker) for tracker in batch))
            else:
                await self._channels.unsubscribe_all_but(
                    {self._keys.to_topic(topic) for topic in self._topics}
                )
                continue
            for batch in batches:
                await asyncio.gather(*(self._compare(tracker) for tracker in batch))

    async def _is_asked(self, within: float) -> bool:
        try:
            async with asyncio.timeout(within):
                return await self._missed.wait()
        except TimeoutError:
            return False

    def _batches(self) -> list[list[StreamTracker]]:
        trackers = [self._all, *self._users.values(), *self._topics.values()]
        return [trackers[start : start + _BATCH] for start in range(0, len(trackers), _BATCH)]

    def _fill_gap(self, tracker: StreamTracker) -> None:
        if tracker.is_filling or tracker.position is None:
            return
        task = asyncio.create_task(self._compare(tracker))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _compare(self, tracker: StreamTracker) -> None:
        """Deliver what Redis has beyond the feed's position, and say what it has no more."""
        if tracker.is_filling or tracker.position is None:
            return
        tracker.is_filling = True
        try:
            is_behind = True
            while is_behind:
                tracker.heard = None
                is_behind = await self._read_on(tracker) or tracker.heard is not None
        except UNAVAILABLE as error:
            logger.warning("stream not compared, Redis: %s: %s", type(error).__name__, error)
        except Exception:
            logger.exception("stream %s could not be compared", tracker.stream)
        finally:
            tracker.is_filling = False

    async def _read_on(self, tracker: StreamTracker) -> bool:
        """One page; True when there may be more."""
        asked = tracker.position
        page = await self._reader.read(self.keys_of(tracker), asked)
        at = tracker.position
        if at is None or asked is None:
            return False
        if not page.complete:
            if at != asked:
                return True
            if tracker.stream == "user" and page.tip.epoch != at.epoch:
                # The index of a user lies where the stream lies, and may be lost with it.
                await self._index.enter_again(self._connections(tracker))
                if tracker.position != asked:
                    return True
            self._metrics.gaps.labels(tracker.stream.partition(":")[0]).inc()
            tracker.lose(page.tip, self._connections(tracker))
            return True
        if page.messages and page.messages[-1][0] > at.offset:
            self._metrics.holes.inc()
        for offset, text in page.messages:
            if offset > at.offset:
                self._deliver(tracker, Position(at.epoch, offset), text)
        return tracker.position is not None and tracker.position.offset < page.tip.offset

    # Joining

    async def follow(
        self,
        connection: Connection,
        tracker: StreamTracker,
        progress: CatchUp,
        at: Position,
        page: Page,
    ) -> None:
        """Send a connection what it has missed, and let it into the live flow.

        `page` was read from `at`. Ends early when the connection is closed, has left the stream
        or joined it anew, so that another joiner stands for it. When Redis cannot be asked, or
        the socket makes no room, it is closed: whoever comes back goes on from there.
        """
        try:
            while not _has_left(connection, tracker, progress):
                for offset, text in page.messages:
                    await _has_room(connection, len(text))
                    if _has_left(connection, tracker, progress):
                        return
                    at = Position(at.epoch, offset)
                    connection.send_frame(Frame(text, {tracker.stream: at}))
                if self._is_level(tracker, at, page.tip):
                    progress.position = at
                    if tracker.position == at:
                        del tracker.catching_up[connection]
                    return
                page = await self._reader.read(self.keys_of(tracker), at)
                if not page.complete and not _has_left(connection, tracker, progress):
                    at = page.tip
                    connection.send_frame(gap(tracker, at))
        except UNAVAILABLE as error:
            logger.warning("catching up ended, Redis: %s: %s", type(error).__name__, error)
            connection.close(CloseCode.SERVER_ERROR, "try again")

    def _is_level(self, tracker: StreamTracker, at: Position, tip: Position) -> bool:
        """Whether all that comes after `at` comes in the live flow."""
        if tracker.position is None:
            tracker.position, heard = tip, tracker.heard
            if heard and (heard.epoch != tip.epoch or heard.offset > tip.offset):
                self._fill_gap(tracker)
        if at.epoch != tracker.position.epoch:
            self._fill_gap(tracker)
            return at == tip
        return at.offset >= tracker.position.offset


def _has_left(connection: Connection, tracker: StreamTracker, progress: CatchUp) -> bool:
    return connection.closing is not None or tracker.catching_up.get(connection) is not progress


async def _has_room(connection: Connection, size: int) -> None:
    """Wait until a socket that catches up can take `size` bytes; one that cannot is closed."""
    buffered = connection.transport.buffered
    if buffered > _UNDER_WAY or buffered + size > connection.max_queue_bytes:
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                await connection.transport.drained()
        except TimeoutError:
            connection.close(CloseCode.SLOW_CONSUMER)
