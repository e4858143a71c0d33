"""After a loss the affected connections get a `gap`, and the others do not."""

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


def gets_gap(
    tracker: StreamTracker, tip: Position, read: Position | None, *, joins: bool = True
) -> bool:
    """Whether a connection that has read up to `read` gets a `gap` when the tip is `tip`."""
    one = connection()
    if joins:
        tracker.catching_up[one] = catch_up = CatchUp()
        catch_up.read_up_to = read
    tracker.skip_lost(tip, [one])
    assert isinstance(one.transport, RecordingTransport)
    received = [frame["type"] for frame in one.transport.messages()][1:]
    assert received in ([], ["gap"])
    assert not (received and one in tracker.catching_up)
    return bool(received)


def test_a_live_connection_gets_a_gap(tracker: StreamTracker) -> None:
    assert gets_gap(tracker, Position("old", 9), None, joins=False)
    assert tracker.position == Position("old", 9)


def test_a_connection_that_still_reads_pages_gets_no_gap_here(tracker: StreamTracker) -> None:
    assert not gets_gap(tracker, Position("old", 9), None)


def test_the_stream_continues_at_the_earliest_position_beyond_the_loss(
    tracker: StreamTracker,
) -> None:
    """A connection has just read from there, so Redis has everything that follows."""
    for offset in (2, 5, 7):
        tracker.catching_up[connection()] = catch_up = CatchUp()
        catch_up.read_up_to = Position("old", offset)
    tracker.skip_lost(Position("old", 9), [*tracker.catching_up])
    assert tracker.position == Position("old", 5)
    assert [one.read_up_to for one in tracker.catching_up.values()] == [
        Position("old", 5),
        Position("old", 7),
    ]


def test_a_caught_up_connection_whose_next_messages_are_lost_gets_a_gap(
    tracker: StreamTracker,
) -> None:
    tracker.position = Position("old", 5)
    assert gets_gap(tracker, Position("old", 9), Position("old", 5))
    assert tracker.position == Position("old", 9)


def test_a_connection_that_has_read_beyond_the_loss_gets_no_gap(tracker: StreamTracker) -> None:
    assert not gets_gap(tracker, Position("old", 9), Position("old", 9))


def test_a_new_epoch_is_delivered_from_its_beginning(tracker: StreamTracker) -> None:
    assert gets_gap(tracker, Position("new", 9), Position("old", 7))
    assert tracker.position == Position("new", 0)


def test_a_connection_in_the_new_epoch_becomes_live_after_its_position(
    tracker: StreamTracker,
) -> None:
    one = connection()
    tracker.catching_up[one] = catch_up = CatchUp()
    catch_up.read_up_to = Position("new", 2)
    tracker.skip_lost(Position("new", 4), [one])
    live = []
    for offset in range(1, 5):
        tracker.position = Position("new", offset)
        if tracker.delivers_to(one):
            live.append(offset)
    assert live == [3, 4]


def test_a_stream_without_a_position_continues_at_the_beginning() -> None:
    tracker = StreamTracker("user", "alice")
    assert gets_gap(tracker, Position("new", 7), None, joins=False)
    assert tracker.position == Position("new", 0)
