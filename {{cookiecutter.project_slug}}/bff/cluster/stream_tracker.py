"""One stream as an instance hears it, and who does not hear it live yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bff.connections.connection import Connection
from bff.connections.frames import Frame
from bff.connections.messages import Gap
from bff.connections.positions import Position


class CatchUp:
    """A connection that is not in the live flow yet; what is live passes it by meanwhile."""

    __slots__ = ("position",)

    def __init__(self) -> None:
        self.position: Position | None = None
        """How far it has read once it needs no more pages: what comes beyond is its own."""


class StreamTracker:
    """One stream as this instance hears it."""

    __slots__ = ("catching_up", "heard", "is_filling", "position", "reader", "stream")

    def __init__(self, stream: str, reader: str) -> None:
        self.stream: Final = stream
        """What browsers call it."""
        self.reader: Final = reader
        """The user or the topic; nothing for all."""
        self.position: Position | None = None
        """Up to here its connections have everything; None until the first has read the tip, and
        for good once the last has left: who comes then has another feed."""
        self.heard: Position | None = None
        """The latest message that could not be delivered: there was no position yet, or a hole."""
        self.catching_up: dict[Connection, CatchUp] = {}
        self.is_filling = False

    def is_live(self, connection: Connection) -> bool:
        """Whether the message at the feed's position is this connection's to get now."""
        progress = self.catching_up.get(connection)
        if progress is None:
            return True
        read, at = progress.position, self.position
        if read is None or at is None or read.epoch != at.epoch or read.offset >= at.offset:
            return False
        del self.catching_up[connection]
        return True

    def lose(self, tip: Position, connections: Sequence[Connection]) -> None:
        """Go on behind a loss, and tell those whom it concerns.

        In a new epoch everything comes from its beginning on. In the same one, what comes after
        the position of a connection that waits for the feed: it has just read that from the
        stream, which therefore has the rest. Who has read further than the loss reaches needs no
        word, and who still reads finds out by itself.
        """
        known = self.position
        if known is None or known.epoch != tip.epoch:
            at = Position(tip.epoch, 0)
        else:
            waiting = (
                one.position for one in self.catching_up.values() if one.position is not None
            )
            reached = (one.offset for one in waiting if one.epoch == tip.epoch)
            beyond = (offset for offset in reached if offset > known.offset)
            at = Position(tip.epoch, min(beyond, default=tip.offset))
        self.position = at
        frame = gap(self, at)
        for connection in connections:
            progress = self.catching_up.get(connection)
            if progress is not None:
                read = progress.position
                if read is None or (read.epoch == at.epoch and read.offset >= at.offset):
                    continue
                del self.catching_up[connection]
            connection.send_frame(frame)


def gap(tracker: StreamTracker, at: Position) -> Frame:
    """The word that something was lost, and where the stream goes on."""
    return Frame(Gap({tracker.stream: at.id_in(tracker.stream)}).encode(), {tracker.stream: at})
