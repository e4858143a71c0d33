"""How far one stream was delivered to the connections of this instance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bff.connections.connection import Connection
from bff.connections.frames import Frame
from bff.connections.messages import Gap
from bff.connections.positions import Position


class CatchUp:
    """A connection that still reads what it has missed; live messages are not sent to it yet."""

    __slots__ = ("read_up_to",)

    def __init__(self) -> None:
        self.read_up_to: Position | None = None
        """Set when it needs no more pages: it becomes live with the first message after this
        position."""


class StreamTracker:
    """The state of one stream on this instance."""

    __slots__ = ("catching_up", "is_syncing", "position", "stream", "target", "undelivered")

    def __init__(self, stream: str, target: str) -> None:
        self.stream: Final = stream
        """The stream's name in the browser protocol."""
        self.target: Final = target
        """The user id or the topic; empty for the stream `all`."""
        self.position: Position | None = None
        """Live connections have everything up to here. None until the first connection has read
        the tip, and again after the last one has left; a later connection gets a new tracker."""
        self.undelivered: Position | None = None
        """The latest message that could not be delivered, because there was no position yet or
        because messages before it are missing."""
        self.catching_up: dict[Connection, CatchUp] = {}
        """The connections that are not live yet."""
        self.is_syncing = False
        """Whether `StreamHub` is comparing the stream with Redis."""

    def delivers_to(self, connection: Connection) -> bool:
        """Whether a connection gets the message at `position`. If it has caught up, it becomes live
        here."""
        catch_up = self.catching_up.get(connection)
        if catch_up is None:
            return True
        read, at = catch_up.read_up_to, self.position
        if read is None or at is None or read.epoch != at.epoch or read.offset >= at.offset:
            return False
        del self.catching_up[connection]
        return True

    def skip_lost(self, tip: Position, connections: Sequence[Connection]) -> None:
        """Continue after messages that Redis has lost, and send `gap` to affected connections.

        In a new epoch the stream continues at its beginning. In the same epoch it continues at
        the earliest position after the loss that a caught-up connection has read to, else at the
        tip: that connection has just read from Redis, so Redis has everything after it.

        Connections that have read beyond the loss are not affected. Those that still read pages
        detect the loss themselves.
        """
        known = self.position
        if known is None or known.epoch != tip.epoch:
            at = Position(tip.epoch, 0)
        else:
            caught_up = (
                one.read_up_to for one in self.catching_up.values() if one.read_up_to is not None
            )
            offsets = (one.offset for one in caught_up if one.epoch == tip.epoch)
            beyond = (offset for offset in offsets if offset > known.offset)
            at = Position(tip.epoch, min(beyond, default=tip.offset))
        self.position = at
        frame = gap(self, at)
        for connection in connections:
            catch_up = self.catching_up.get(connection)
            if catch_up is not None:
                read = catch_up.read_up_to
                if read is None or (read.epoch == at.epoch and read.offset >= at.offset):
                    continue
                del self.catching_up[connection]
            connection.send_frame(frame)


def gap(tracker: StreamTracker, at: Position) -> Frame:
    """The frame that reports lost messages, and the position after which the stream continues."""
    return Frame(Gap({tracker.stream: at.id_in(tracker.stream)}).encode(), {tracker.stream: at})
