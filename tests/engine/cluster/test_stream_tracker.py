"""Who is told of a loss: those that live in it, and those whom it overtakes."""

from __future__ import annotations

import pytest
from bff.cluster.stream_tracker import CatchUp, StreamTracker
from bff.connections.connection import Connection
from bff.connections.messages import Hello
from bff.connections.positions import Position

from tests.engine.doubles import RecordingTransport


@pytest.fixture
def tracker() -> StreamTracker:
    tracker = StreamTracker("user", "alice")
    tracker.position = Position("old", 3)
    return tracker


def connection() -> Connection:
    opened = Connection("i.c", "alice", RecordingTransport(), max_queue_bytes=1 << 20)
    opened.open(Hello("i.c", "alice", "alice", 0, 25, {}))
    return opened


def is_told(
    tracker: StreamTracker, tip: Position, read: Position | None, *, joins: bool = True
) -> bool:
    """Whether a connection that has read so far gets a `gap` when the feed goes on at `tip`."""
    one = connection()
    if joins:
        tracker.catching_up[one] = progress = CatchUp()
        progress.position = read
    tracker.lose(tip, [one])
    assert isinstance(one.transport, RecordingTransport)
    told = [frame["type"] for frame in one.transport.messages()][1:]
    assert told in ([], ["gap"])
    assert not (told and one in tracker.catching_up)
    return bool(told)


def test_a_live_connection_is_told(tracker: StreamTracker) -> None:
    assert is_told(tracker, Position("old", 9), None, joins=False)
    assert tracker.position == Position("old", 9)


def test_one_that_still_reads_finds_out_by_itself(tracker: StreamTracker) -> None:
    assert not is_told(tracker, Position("old", 9), None)


def test_the_feed_goes_on_from_who_has_read_least_beyond_the_loss(tracker: StreamTracker) -> None:
    """What that one has just read from is still in the stream, and so is all that follows."""
    for offset in (2, 5, 7):
        tracker.catching_up[connection()] = progress = CatchUp()
        progress.position = Position("old", offset)
    tracker.lose(Position("old", 9), [*tracker.catching_up])
    assert tracker.position == Position("old", 5)
    assert [one.position for one in tracker.catching_up.values()] == [
        Position("old", 5),
        Position("old", 7),
    ]


def test_one_whose_rest_the_stream_has_lost_too_is_told(tracker: StreamTracker) -> None:
    tracker.position = Position("old", 5)
    assert is_told(tracker, Position("old", 9), Position("old", 5))
    assert tracker.position == Position("old", 9)


def test_one_that_has_read_beyond_the_loss_is_not(tracker: StreamTracker) -> None:
    assert not is_told(tracker, Position("old", 9), Position("old", 9))


def test_in_a_new_epoch_all_comes_from_its_beginning(tracker: StreamTracker) -> None:
    assert is_told(tracker, Position("new", 9), Position("old", 7))
    assert tracker.position == Position("new", 0)


def test_one_that_is_in_the_new_epoch_already_waits_for_the_feed(tracker: StreamTracker) -> None:
    one = connection()
    tracker.catching_up[one] = progress = CatchUp()
    progress.position = Position("new", 2)
    tracker.lose(Position("new", 4), [one])
    live = []
    for offset in range(1, 5):
        tracker.position = Position("new", offset)
        if tracker.is_live(one):
            live.append(offset)
    assert live == [3, 4]
