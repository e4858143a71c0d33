"""Delivers the messages of all streams to the connections of this instance."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from bff.cluster.context import ClusterContext
from bff.cluster.index import ConnectionIndex
from bff.cluster.pubsub_channels import PubSubChannels
from bff.cluster.stream_registry import StreamRegistry
from bff.cluster.stream_tracker import CatchUp, StreamTracker, gap
from bff.cluster.streams import Page, StreamReader
from bff.connections.close_codes import CloseCode
from bff.connections.connection import Connection
from bff.connections.frames import Frame
from bff.connections.positions import Position
from bff.redis.client import UNAVAILABLE, why
from bff.tasks import TaskSet

logger = logging.getLogger(__name__)

_BATCH: Final = 500
"""Streams that are compared with Redis in one round trip."""
_MAX_BUFFERED: Final = 128 * 1024
"""Bytes that may be buffered in a socket's transport while its connection catches up."""
_DRAIN_SECONDS: Final = 30.0
"""How long the buffer of a connection that catches up may take to drain."""


class StreamHub:
    """Delivers each message of a stream once, in the order of the offsets.

    The message with the next offset is delivered, and one with an earlier offset is dropped. If
    offsets were skipped, the missing messages are read from Redis first; if Redis no longer has
    them, the connections get a `gap`.

    A position is an epoch and an offset: the epoch changes when Redis restarts, fails over or has
    lost the stream. The tip is the newest position.

    For a new connection, pages are read until it has reached the position of the live messages.
    Nothing is awaited between that check and the moment at which the connection becomes live.
    """

    def __init__(
        self,
        context: ClusterContext,
        streams: StreamRegistry,
        index: ConnectionIndex,
        channels: PubSubChannels,
        reader: StreamReader,
    ) -> None:
        self._keys = context.keys
        self._metrics = context.metrics
        self._resync_needed = context.resync_needed
        self._check_seconds = context.settings.stream_check_seconds
        self._streams = streams
        self._index = index
        self._channels = channels
        self._reader = reader
        self._tasks = TaskSet("stream sync")

    # Live messages

    def on_message(self, tracker: StreamTracker, position: Position, text: bytes) -> int:
        """Deliver a message from pub/sub; returns the number of connections it was written to."""
        at = tracker.position
        if at is None:  # no connection has caught up yet: remember the newest message
            tracker.undelivered = position
        elif position.epoch == at.epoch and position.offset == at.offset + 1:
            return self._deliver(tracker, position, text)
        elif position.epoch != at.epoch or position.offset > at.offset:
            tracker.undelivered = position
            self._read_skipped(tracker)
        return 0

    def _deliver(self, tracker: StreamTracker, position: Position, text: bytes) -> int:
        tracker.position = position
        connections = self._streams.connections_of(tracker)
        if tracker.catching_up:
            connections = [one for one in connections if tracker.delivers_to(one)]
        frame = Frame(text, {tracker.stream: position})
        Connection.send_to_each(connections, frame)
        self._metrics.deliveries.inc(len(connections))
        return len(connections)

    # Missing messages

    async def run(self) -> None:
        """Compare every stream with Redis, until cancelled.

        The comparisons are spread over `STREAM_CHECK_SECONDS`. When messages may have been
        missed, all streams are compared immediately. Unused topic channels are unsubscribed.
        """
        while True:
            batches = self._batches()
            for batch in batches:
                if await self._is_resync_needed(within=self._check_seconds / len(batches)):
                    self._resync_needed.clear()
                    batches = self._batches()
                    break
                await asyncio.gather(*(self._sync(tracker) for tracker in batch))
            else:
                await self._channels.unsubscribe_all_but(
                    {self._keys.topic_channel(topic) for topic in self._streams.topics()}
                )
                continue
            for batch in batches:
                await asyncio.gather(*(self._sync(tracker) for tracker in batch))

    async def _is_resync_needed(self, within: float) -> bool:
        try:
            async with asyncio.timeout(within):
                return await self._resync_needed.wait()
        except TimeoutError:
            return False

    def _batches(self) -> list[list[StreamTracker]]:
        trackers = self._streams.trackers()
        return [trackers[start : start + _BATCH] for start in range(0, len(trackers), _BATCH)]

    def _read_skipped(self, tracker: StreamTracker) -> None:
        """Read the missing messages in a background task."""
        if not tracker.is_syncing:
            self._tasks.start(self._sync(tracker))

    async def _sync(self, tracker: StreamTracker) -> None:
        """Deliver what Redis has after the tracker's position, and report what it has lost."""
        if tracker.is_syncing or tracker.position is None:
            return
        tracker.is_syncing = True
        try:
            is_behind = True
            while is_behind:
                tracker.undelivered = None
                is_behind = await self._sync_page(tracker) or tracker.undelivered is not None
        except UNAVAILABLE as error:
            logger.warning(
                "could not sync stream: Redis unavailable",
                extra={"stream": tracker.stream, "reason": why(error)},
            )
        except Exception:
            logger.exception("could not sync stream", extra={"stream": tracker.stream})
        finally:
            tracker.is_syncing = False

    async def _sync_page(self, tracker: StreamTracker) -> bool:
        """Read one page; True when there may be more."""
        requested = tracker.position
        page = await self._reader.read(self._streams.keys_of(tracker), requested)
        at = tracker.position
        if at is None:
            return False
        if not page.complete:
            if at != requested:  # messages were delivered meanwhile: read again
                return True
            if tracker.stream == "user" and page.tip.epoch != at.epoch:
                # The user's index entries are on the same node, so they may be lost too.
                await self._index.restore(self._streams.connections_of(tracker))
                if tracker.position != requested:
                    return True
            self._count_gap(tracker)
            tracker.skip_lost(page.tip, self._streams.connections_of(tracker))
            return True
        if page.messages and page.messages[-1][0] > at.offset:
            self._metrics.holes.inc()
        for offset, text in page.messages:
            if offset > at.offset:
                self._deliver(tracker, Position(at.epoch, offset), text)
        return tracker.position is not None and tracker.position.offset < page.tip.offset

    async def stop(self) -> None:
        """Cancel the tasks that read missing messages."""
        await self._tasks.stop()

    # Catching up

    async def catch_up(
        self,
        connection: Connection,
        tracker: StreamTracker,
        catch_up: CatchUp,
        at: Position,
        page: Page,
    ) -> None:
        """Send a connection what it has missed, and let it become live.

        `page` holds the messages after the position `at`. Returns early when the connection is
        closed, has left the stream, or has joined it again (then the newer `CatchUp` counts). When
        Redis is unavailable or the socket does not drain, the connection is closed: the client
        reconnects with its last position.
        """
        epoch = None  # the tracker's when the page was requested; unknown for the first page
        try:
            while not _has_left(connection, tracker, catch_up):
                for offset, text in page.messages:
                    await wait_for_room(connection, len(text))
                    if _has_left(connection, tracker, catch_up):
                        return
                    at = Position(at.epoch, offset)
                    connection.send_frame(Frame(text, {tracker.stream: at}))
                if self._try_to_go_live(tracker, at, page.tip, epoch):
                    # If the tracker has not delivered the messages up to here yet, the connection
                    # must not get these twice: `StreamTracker.delivers_to` ends its catching up
                    # after them.
                    catch_up.read_up_to = at
                    if tracker.position == at:
                        del tracker.catching_up[connection]
                    return
                epoch = tracker.position and tracker.position.epoch
                page = await self._reader.read(self._streams.keys_of(tracker), at)
                if not page.complete and not _has_left(connection, tracker, catch_up):
                    at = page.tip
                    self._count_gap(tracker)
                    connection.send_frame(gap(tracker, at))
        except UNAVAILABLE as error:
            logger.warning(
                "connection closed while catching up: Redis unavailable",
                extra={
                    "connection": connection.id,
                    "stream": tracker.stream,
                    "reason": why(error),
                },
            )
            connection.close(CloseCode.SERVER_ERROR, "try again")

    def _count_gap(self, tracker: StreamTracker) -> None:
        self._metrics.gaps.labels(tracker.stream.partition(":")[0]).inc()

    def _try_to_go_live(
        self, tracker: StreamTracker, at: Position, tip: Position, epoch: str | None
    ) -> bool:
        """Return whether all messages after `at` will be delivered live.

        Also gives the tracker its position if it has none, and starts a background task that reads
        the missing messages if the tracker has fallen behind.

        `epoch` is that of the tracker when `tip` was requested. If the tracker still has it, but
        `tip` has another one, that one is newer, and the tracker is behind. If the tracker has got
        a new epoch since, `tip` may be of an older one: the connection must read again.
        """
        if tracker.position is None:
            tracker.position, undelivered = tip, tracker.undelivered
            if undelivered and (undelivered.epoch != tip.epoch or undelivered.offset > tip.offset):
                self._read_skipped(tracker)
        if at.epoch != tracker.position.epoch:
            self._read_skipped(tracker)
            return at == tip and epoch == tracker.position.epoch
        return at.offset >= tracker.position.offset


def _has_left(connection: Connection, tracker: StreamTracker, catch_up: CatchUp) -> bool:
    return connection.close_code is not None or tracker.catching_up.get(connection) is not catch_up


async def wait_for_room(connection: Connection, size: int) -> None:
    """Wait until the socket can buffer `size` bytes. Closes the connection if that takes longer
    than `_DRAIN_SECONDS`."""
    buffered = connection.transport.buffered
    if buffered > _MAX_BUFFERED or buffered + size > connection.max_queue_bytes:
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                await connection.transport.drained()
        except TimeoutError:
            connection.close(CloseCode.SLOW_CONSUMER)
