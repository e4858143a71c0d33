"""Who is told of a loss: those that live in it, and those whom it overtakes."""

from __future__ import annotations

import pytest
from bff.cluster.feed import Feed, Joiner
from bff.connections.connection import Connection
from bff.connections.messages import Hello
from bff.connections.positions import Position

from tests.engine.doubles import RecordingTransport


@pytest.fixture
def feed() -> Feed:
    feed = Feed("user", "alice")
    feed.position = Position("old", 3)
    return feed


def connection() -> Connection:
    opened = Connection("i.c", "alice", RecordingTransport(), max_queue_bytes=1 << 20)
    opened.open(Hello("i.c", "alice", "alice", 0, 25, {}))
    return opened


def is_told(feed: Feed, tip: Position, read: Position | None, *, joins: bool = True) -> bool:
    """Whether a connection that has read so far gets a `gap` when the feed goes on at `tip`."""
    one = connection()
    if joins:
        feed.joining[one] = joiner = Joiner()
        joiner.position = read
    feed.lose(tip, [one])
    assert isinstance(one.transport, RecordingTransport)
    told = [frame["type"] for frame in one.transport.messages()][1:]
    assert told in ([], ["gap"])
    assert not (told and one in feed.joining)
    return bool(told)


def test_a_live_connection_is_told(feed: Feed) -> None:
    assert is_told(feed, Position("old", 9), None, joins=False)
    assert feed.position == Position("old", 9)


def test_one_that_still_reads_finds_out_by_itself(feed: Feed) -> None:
    assert not is_told(feed, Position("old", 9), None)


def test_the_feed_goes_on_from_who_has_read_least_beyond_the_loss(feed: Feed) -> None:
    """What that one has just read from is still in the stream, and so is all that follows."""
    for offset in (2, 5, 7):
        feed.joining[connection()] = joiner = Joiner()
        joiner.position = Position("old", offset)
    feed.lose(Position("old", 9), [*feed.joining])
    assert feed.position == Position("old", 5)
    assert [one.position for one in feed.joining.values()] == [
        Position("old", 5),
        Position("old", 7),
    ]


def test_one_whose_rest_the_stream_has_lost_too_is_told(feed: Feed) -> None:
    feed.position = Position("old", 5)
    assert is_told(feed, Position("old", 9), Position("old", 5))
    assert feed.position == Position("old", 9)


def test_one_that_has_read_beyond_the_loss_is_not(feed: Feed) -> None:
    assert not is_told(feed, Position("old", 9), Position("old", 9))


def test_in_a_new_epoch_all_comes_from_its_beginning(feed: Feed) -> None:
    assert is_told(feed, Position("new", 9), Position("old", 7))
    assert feed.position == Position("new", 0)


def test_one_that_is_in_the_new_epoch_already_waits_for_the_feed(feed: Feed) -> None:
    one = connection()
    feed.joining[one] = joiner = Joiner()
    joiner.position = Position("new", 2)
    feed.lose(Position("new", 4), [one])
    live = []
    for offset in range(1, 5):
        feed.position = Position("new", offset)
        if feed.is_live(one):
            live.append(offset)
    assert live == [3, 4]
