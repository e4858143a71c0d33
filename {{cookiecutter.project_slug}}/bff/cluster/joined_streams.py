"""The streams that a connection has joined, with what it has missed of each."""

from __future__ import annotations

from typing import NamedTuple

from bff.cluster.stream_tracker import CatchUp, StreamTracker
from bff.cluster.streams import Page
from bff.connections.positions import Position


class JoinedStream(NamedTuple):
    """One stream that a connection has joined, and what it has missed of it."""

    tracker: StreamTracker
    catch_up: CatchUp
    """The connection's entry in `tracker.catching_up`."""
    since: Position | None
    """How far the client has read; None when it has not read this stream yet."""
    page: Page
    """The first page after that position."""

    @property
    def begins_at(self) -> Position:
        """The position before the first message that the connection gets."""
        return self.page.begins_at(self.since)


class JoinedStreams(tuple[JoinedStream, ...]):
    """The streams of one connection; the methods return dictionaries by the name of the stream."""

    __slots__ = ()

    def positions(self) -> dict[str, str]:
        """The field `positions` of a hello or a response: the id of the newest message of each
        stream. The missed messages that follow do not change it."""
        return {one.tracker.stream: one.page.tip.id_in(one.tracker.stream) for one in self}

    def cursor(self) -> dict[str, Position]:
        """The cursor of the frame that has `positions`: by stream, the position before the first
        message that the connection gets. It is older than `positions` when messages were missed,
        which follow: an event stream that breaks before they arrive continues from here."""
        return {one.tracker.stream: one.begins_at for one in self}

    def recovered(self) -> dict[str, bool]:
        """For each stream with a position from the client: whether everything after it follows."""
        return {one.tracker.stream: one.page.complete for one in self if one.since is not None}

    @property
    def are_recovered(self) -> bool:
        """Whether the client had a position in every stream, and nothing after it was lost."""
        return all(one.since is not None and one.page.complete for one in self)
