"""A connection sends in order, limits its buffer, and is closed once."""

from __future__ import annotations

from bff.connections.close_codes import CloseCode
from bff.connections.connection import Connection, instance_of, new_connection_id
from bff.connections.frames import Frame
from bff.connections.messages import Event, Hello
from bff.connections.positions import Position

from tests.engine.doubles import RecordingTransport


def make(user_id: str = "alice", max_queue_bytes: int = 1000) -> Connection:
    return Connection(
        new_connection_id("one"), user_id, RecordingTransport(), max_queue_bytes=max_queue_bytes
    )


def transport_of(connection: Connection) -> RecordingTransport:
    assert isinstance(connection.transport, RecordingTransport)
    return connection.transport


def hello(connection: Connection) -> Hello:
    return Hello(connection.id, connection.user_id, "Alice", 0, 25, {})


def test_the_id_names_the_instance() -> None:
    assert instance_of(make().id) == "one"


def test_the_hello_is_the_first_frame() -> None:
    connection = make()
    connection.send(Event("early", 1))
    assert not connection.is_open
    connection.open(hello(connection))
    assert connection.is_open
    connection.send(Event("late", 2))
    topics = [frame["payload"]["topic"] for frame in transport_of(connection).messages()]
    assert topics == ["hello", "early", "late"]


def test_one_frame_is_shared_by_all_connections() -> None:
    one, two = make(), make()
    for connection in (one, two):
        connection.open(hello(connection))
    frame = Frame(b"{}")
    one.send_frame(frame)
    two.send_frame(frame)
    assert transport_of(one).frames[-1] is transport_of(two).frames[-1]


def test_a_full_buffer_closes_as_slow_consumer() -> None:
    connection = make(max_queue_bytes=300)
    connection.open(hello(connection))
    transport_of(connection).buffered = 290
    connection.send(Event("x", "0123456789"))
    assert transport_of(connection).closed == (CloseCode.SLOW_CONSUMER, "")


def test_frames_that_wait_for_the_hello_are_limited_too() -> None:
    connection = make(max_queue_bytes=300)
    for _ in range(4):  # the last one finds 300 bytes waiting, and no more
        connection.send_frame(Frame(b"x" * 100))
    assert transport_of(connection).closed is None
    connection.send_frame(Frame(b"x"))
    assert transport_of(connection).closed == (CloseCode.SLOW_CONSUMER, "")
    connection.open(hello(connection))
    assert transport_of(connection).frames == []


def test_the_positions_of_a_message_go_with_its_frame() -> None:
    connection, positions = make(), {"user": Position("abc", 7)}
    connection.open(hello(connection), positions)
    connection.send(Event("x", 1))
    connection.send(Event("x", 2), positions)
    sent = [frame.cursor for frame in transport_of(connection).frames]
    assert sent == [positions, {}, positions]


def test_what_administrators_see_of_a_connection_is_what_it_was_made_with() -> None:
    details = {"address": "127.0.0.1"}
    made = Connection("one.1", "alice", RecordingTransport(), max_queue_bytes=1, details=details)
    assert made.details == {"address": "127.0.0.1"}
    assert make().details == {}


def test_only_the_first_close_has_an_effect_and_nothing_is_sent_after_it() -> None:
    connection = make()
    connection.open(hello(connection))
    connection.close(CloseCode.DRAIN)
    connection.close(CloseCode.REVOKED)
    connection.send(Event("x", 1))
    assert not connection.is_open
    assert transport_of(connection).closed == (CloseCode.DRAIN, "")
    assert len(transport_of(connection).frames) == 1
