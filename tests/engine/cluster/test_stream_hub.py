"""Missed messages are delivered in order, or a `gap` reports that they are lost."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection
from functools import partial
from typing import Any

import pytest
from bff.cluster.keys import StreamKeys
from bff.cluster.stream_hub import wait_for_room
from bff.cluster.stream_tracker import CatchUp, StreamTracker
from bff.cluster.streams import PAGE_MESSAGES, Page
from bff.connections.close_codes import CloseCode
from bff.connections.connection import Connection
from bff.connections.frames import Frame
from bff.connections.positions import Position, format_cursor
from bff.redis.client import RedisClient
from bff.settings import Settings
from bff.testing import until

from tests.engine.cluster.conftest import ClusterMember, StartInstance
from tests.engine.doubles import RecordingTransport


def transport_of(connection: Connection) -> RecordingTransport:
    assert isinstance(connection.transport, RecordingTransport)
    return connection.transport


def hello_of(connection: Connection) -> dict[str, Any]:
    event: dict[str, Any] = transport_of(connection).messages()[0]["payload"]["event"]
    return event


def numbers_of(connection: Connection) -> list[Any]:
    """The payloads of the test events that the connection got."""
    return [
        message["payload"]["event"]
        for message in transport_of(connection).messages()
        if message["type"] == "event" and message["payload"]["topic"] == "n"
    ]


def gaps_of(connection: Connection) -> list[dict[str, str]]:
    return [
        message["payload"]["streams"]
        for message in transport_of(connection).messages()
        if message["type"] == "gap"
    ]


def metric(instance: ClusterMember, name: str, **labels: str) -> float:
    return instance.metrics.registry.get_sample_value(name, labels) or 0.0


async def wipe(redis: RedisClient, settings: Settings) -> None:
    """Delete all keys, like a Redis that was restarted without its data."""
    await redis.delete(*[key async for key in redis.scan_iter(match=f"{settings.prefix}*")])


class DropMessages:
    """Makes an instance drop the messages that it receives from pub/sub."""

    def __init__(self, instance: ClusterMember, monkeypatch: pytest.MonkeyPatch) -> None:
        self._dropped = 0
        self._patch = monkeypatch
        self._hub = instance.stream_hub

    async def during(self, sends: int, send: Any) -> None:
        with self._patch.context() as patch:
            patch.setattr(self._hub, "on_message", self._drop)
            for number in range(sends):
                await send(number)
            await until(lambda: self._dropped >= sends)

    def _drop(self, tracker: StreamTracker, position: Position, text: bytes) -> int:
        self._dropped += 1
        return 0


# Reconnecting


async def test_a_client_that_reconnects_gets_exactly_what_it_missed(start: StartInstance) -> None:
    a, b = await start(), await start()
    seen = await a.messenger.to_user("alice", "n", 0)
    for number in range(1, 151):
        await a.messenger.to_user("alice", "n", number)
    alice = await b.join("alice", since=str(seen.id))
    assert hello_of(alice)["recovered"] == {"user": True}
    assert numbers_of(alice) == list(range(1, 151))
    await a.messenger.to_user("alice", "n", 151)
    await until(lambda: 151 in numbers_of(alice))
    assert numbers_of(alice) == list(range(1, 152))
    assert gaps_of(alice) == []


async def test_each_stream_is_recovered_on_its_own(
    start: StartInstance, settings: Settings
) -> None:
    a = await start()
    first = await a.messenger.to_user("alice", "n", "user 0")
    everybody = await a.messenger.to_all("n", "all 0")
    await a.messenger.to_user("alice", "n", "user 1")
    for number in range(1, settings.max_stream_length + 2):
        await a.messenger.to_all("n", f"all {number}")
    alice = await a.join("alice", since=f"{first.id},{everybody.id}")
    assert hello_of(alice)["recovered"] == {"user": True, "all": False}
    assert numbers_of(alice) == ["user 1"]


async def test_hello_reports_that_nothing_was_missed(start: StartInstance) -> None:
    a = await start()
    seen = await a.messenger.to_user("alice", "n", 0)
    alice = await a.join("alice", since=str(seen.id))
    assert hello_of(alice)["recovered"] == {"user": True}
    assert hello_of(alice)["positions"]["user"] == seen.id
    assert numbers_of(alice) == []


async def test_the_position_of_an_unused_stream_outlives_its_messages(
    start: StartInstance, redis: RedisClient, settings: Settings
) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    sent = await a.messenger.to_user("alice", "n", 0)
    await a.leave(alice)
    stream = a.streams.keys_of(StreamTracker("user", "alice"))
    assert 0 < await redis.ttl(stream.stream) <= settings.stream_retention_seconds
    assert (
        settings.stream_retention_seconds
        < await redis.ttl(stream.meta)
        <= settings.position_retention_seconds
    )
    await redis.delete(stream.stream)  # as if it had expired
    back = await b.join("alice", since=str(sent.id))
    assert hello_of(back)["recovered"] == {"user": True}


async def test_a_client_that_has_no_message_yet_misses_none(start: StartInstance) -> None:
    a, b = await start(), await start()
    before = await a.join("alice")
    await a.leave(before)
    await a.messenger.to_user("alice", "n", 1)
    alice = await b.join("alice", since=hello_of(before)["positions"]["user"])
    assert hello_of(alice)["recovered"] == {"user": True}
    assert numbers_of(alice) == [1]


async def test_an_incomplete_rest_of_a_stream_is_not_sent(
    start: StartInstance, settings: Settings
) -> None:
    a = await start()
    seen = await a.messenger.to_user("alice", "n", 0)
    for number in range(1, settings.max_stream_length + 2):
        await a.messenger.to_user("alice", "n", number)
    alice = await a.join("alice", since=str(seen.id))
    assert hello_of(alice)["recovered"] == {"user": False}
    assert numbers_of(alice) == []
    await a.messenger.to_user("alice", "n", "live")
    await until(lambda: numbers_of(alice) == ["live"])


@pytest.mark.parametrize("since", ["user/anotherepoch/3", "user/{epoch}/999"])
async def test_an_unknown_position_recovers_nothing(start: StartInstance, since: str) -> None:
    a = await start()
    sent = await a.messenger.to_user("alice", "n", 0)
    epoch = Position.parse(str(sent.id))[1].epoch
    alice = await a.join("alice", since=since.format(epoch=epoch))
    assert hello_of(alice)["recovered"] == {"user": False}
    assert numbers_of(alice) == []


async def test_joining_while_messages_are_sent_neither_misses_nor_repeats_any(
    start: StartInstance,
) -> None:
    """Each connection gets consecutive numbers from its position on."""
    a, b = await start(), await start()
    first = await a.messenger.to_user("alice", "n", 1)
    last = 400

    async def send() -> None:
        for number in range(2, last + 1):
            await (a if number % 3 else b).messenger.to_user("alice", "n", number)

    sending = asyncio.create_task(send())
    joined: list[Connection] = []
    position = str(first.id)
    while not sending.done():
        connection = await (a if len(joined) % 2 else b).join("alice", since=position)
        joined.append(connection)
        position = hello_of(connection)["positions"]["user"]
        await asyncio.sleep(0)
        if len(joined) > 10:
            await a.leave(joined.pop(0))
    await sending

    def has_last(connection: Connection) -> bool:
        return numbers_of(connection)[-1:] == [last]

    for connection in joined:
        await until(partial(has_last, connection))
        assert hello_of(connection)["recovered"] == {"user": True}
        numbers = numbers_of(connection)
        assert numbers == list(range(numbers[0], last + 1))


async def test_a_page_waits_until_the_transport_has_drained(start: StartInstance) -> None:
    a = await start()
    seen = await a.messenger.to_user("alice", "n", 0)
    for number in range(1, 4):
        await a.messenger.to_user("alice", "n", number)
    room = asyncio.Event()

    class Full(RecordingTransport):
        async def drained(self) -> None:
            await room.wait()
            self.buffered = 0

        def write(self, frame: Frame, limit: int) -> bool:
            written = super().write(frame, limit)
            self.buffered = 1 << 19
            return written

    transport = Full()
    catching_up = asyncio.create_task(a.join("alice", since=str(seen.id), transport=transport))
    await until(lambda: len(transport.frames) == 1)
    await a.messenger.to_user("alice", "n", 4)
    room.set()
    alice = await catching_up
    await until(lambda: numbers_of(alice) == [1, 2, 3, 4])
    assert alice.close_code is None


async def test_a_socket_that_does_not_drain_is_closed_as_slow_consumer(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bff.cluster.stream_hub._DRAIN_SECONDS", 0.05)
    a = await start()
    seen = await a.messenger.to_user("alice", "n", 0)
    await a.messenger.to_user("alice", "n", 1)

    class Stuck(RecordingTransport):
        async def drained(self) -> None:
            await asyncio.Event().wait()

        def write(self, frame: Frame, limit: int) -> bool:
            written = super().write(frame, limit)
            self.buffered = 1 << 19
            return written

    alice = await a.join("alice", since=str(seen.id), transport=Stuck())
    assert alice.close_code == CloseCode.SLOW_CONSUMER


@pytest.mark.parametrize(
    ("buffered", "size", "queue", "waits"),
    [
        (128 * 1024, 1, 1 << 20, False),
        (128 * 1024 + 1, 1, 1 << 20, True),
        (600, 400, 1000, False),
        (600, 401, 1000, True),
    ],
)
async def test_a_page_waits_before_the_transport_has_more_than_it_may_buffer(
    buffered: int, size: int, queue: int, waits: bool
) -> None:
    drained: list[int] = []

    class Buffering(RecordingTransport):
        async def drained(self) -> None:
            drained.append(self.buffered)

    transport = Buffering()
    transport.buffered = buffered
    await wait_for_room(Connection("i.c", "alice", transport, max_queue_bytes=queue), size)
    assert drained == [buffered] * waits


# Live connections


async def test_a_message_counts_once_for_each_connection_it_was_written_to(
    start: StartInstance,
) -> None:
    a = await start()
    tabs = [await a.join("alice") for _ in range(2)]
    tracker = a.streams.of_user("alice")
    assert tracker is not None
    assert tracker.position is not None
    following = Position(tracker.position.epoch, tracker.position.offset + 1)
    assert a.stream_hub.on_message(tracker, following, b"{}") == 2
    assert a.stream_hub.on_message(tracker, following, b"{}") == 0, "it came twice"
    assert [len(transport_of(tab).frames) for tab in tabs] == [2, 2]
    assert metric(a, "bff_deliveries_total") == 2


@pytest.mark.parametrize(
    ("is_same_epoch", "step", "is_delivered", "is_read"),
    [
        (True, 1, True, False),
        (True, 0, False, False),
        (True, -1, False, False),
        (True, 2, False, True),
        (False, 1, False, True),
        (False, -1, False, True),
    ],
)
async def test_the_next_message_is_delivered_at_once_and_only_a_skipped_one_causes_a_read(
    start: StartInstance, is_same_epoch: bool, step: int, is_delivered: bool, is_read: bool
) -> None:
    a = await start()
    alice = await a.join("alice")
    for number in range(2):
        await a.messenger.to_user("alice", "n", number)
    await until(lambda: numbers_of(alice) == [0, 1])
    tracker = a.streams.of_user("alice")
    assert tracker is not None
    assert tracker.position is not None
    epoch, offset = tracker.position.epoch, tracker.position.offset
    position = Position(epoch if is_same_epoch else "another", offset + step)
    assert a.stream_hub.on_message(tracker, position, b"{}") == is_delivered
    assert bool(a.stream_hub._tasks) is is_read
    await until(lambda: not a.stream_hub._tasks)


async def test_missing_messages_are_delivered_before_later_ones(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    await DropMessages(a, monkeypatch).during(5, lambda n: b.messenger.to_user("alice", "n", n))
    await b.messenger.to_user("alice", "n", 5)
    await until(lambda: 5 in numbers_of(alice))
    assert numbers_of(alice) == list(range(6))
    assert gaps_of(alice) == []
    assert metric(a, "bff_holes_total") == 1


async def test_messages_without_a_successor_are_found_by_a_resync(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    lost = PAGE_MESSAGES + 20
    await DropMessages(a, monkeypatch).during(lost, lambda n: b.messenger.to_user("alice", "n", n))
    assert numbers_of(alice) == []
    a.context.resync_needed.set()
    await until(lambda: numbers_of(alice) == list(range(lost)))


async def test_missing_messages_that_could_not_be_read_are_read_with_the_next_message(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    await DropMessages(a, monkeypatch).during(1, lambda n: b.messenger.to_user("alice", "n", n))
    failed = asyncio.Event()

    async def fail(*_: Any) -> Page:
        failed.set()
        raise ConnectionError

    with monkeypatch.context() as patch:
        patch.setattr(a.stream_hub._reader, "read", fail)
        await b.messenger.to_user("alice", "n", 1)
        await failed.wait()
    await b.messenger.to_user("alice", "n", 2)
    await until(lambda: numbers_of(alice) == [0, 1, 2])


class SlowReads:
    """Makes an instance's reads of streams wait."""

    def __init__(self, instance: ClusterMember, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.cancelled = 0
        """How many reads there are, and how many were cancelled."""
        self.of_streams: Counter[StreamKeys] = Counter()
        """How many reads each stream has had."""
        self.may_go_on = asyncio.Event()
        self._read = instance.stream_hub._reader.read
        monkeypatch.setattr(instance.stream_hub._reader, "read", self._slowly)

    async def _slowly(self, stream: StreamKeys, after: Position | None = None) -> Page:
        self.now += 1
        self.of_streams[stream] += 1
        try:
            await self.may_go_on.wait()
            return await self._read(stream, after)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.now -= 1


async def test_messages_and_checks_while_missing_ones_are_read_cause_no_other_reads(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await start(), await start()
    alice, bob = await a.join("alice"), await a.join("bob")
    await DropMessages(a, monkeypatch).during(1, lambda n: b.messenger.to_user("alice", "n", n))
    reads = SlowReads(a, monkeypatch)
    for number in range(1, 6):
        await b.messenger.to_user("alice", "n", number)
    await b.messenger.to_user("bob", "n", "alice's messages were received before this one")
    await until(lambda: len(numbers_of(bob)) == 1 and reads.now > 0)
    a.context.resync_needed.set()
    await until(lambda: reads.of_streams[a.context.keys.user("bob")] == 1)
    assert reads.of_streams[a.context.keys.user("alice")] == 1
    reads.may_go_on.set()
    await until(lambda: numbers_of(alice) == list(range(6)))
    await until(lambda: not a.stream_hub._tasks)
    assert reads.now == 0


async def test_the_reading_of_missing_messages_ends_when_the_last_connection_leaves(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    await DropMessages(a, monkeypatch).during(1, lambda n: b.messenger.to_user("alice", "n", n))
    reads = SlowReads(a, monkeypatch)
    await b.messenger.to_user("alice", "n", 1)
    await until(lambda: reads.now == 1)
    await a.leave(alice)
    reads.may_go_on.set()
    await until(lambda: not a.stream_hub._tasks)
    assert numbers_of(alice) == []


async def test_an_instance_that_stops_reads_no_missing_messages(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await start(), await start()
    await a.join("alice")
    await DropMessages(a, monkeypatch).during(1, lambda n: b.messenger.to_user("alice", "n", n))
    reads = SlowReads(a, monkeypatch)
    await b.messenger.to_user("alice", "n", 1)
    await until(lambda: reads.now == 1)
    await a.stop()
    assert (reads.now, reads.cancelled) == (0, 1)


async def test_a_check_reads_only_streams_with_connections_and_finds_no_fault_in_them(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a = await start(stream_check_seconds=0.05)
    read, unsubscribe = a.stream_hub._reader.read, a.stream_hub._channels.unsubscribe_all_but
    streams: list[str] = []
    rounds = 0

    async def recorded(keys: StreamKeys, after: Position | None = None) -> Page:
        streams.append(keys.name)
        return await read(keys, after)

    async def counted(names: Collection[str]) -> None:
        nonlocal rounds
        rounds += 1
        await unsubscribe(names)

    monkeypatch.setattr(a.stream_hub._reader, "read", recorded)
    monkeypatch.setattr(a.stream_hub._channels, "unsubscribe_all_but", counted)
    await until(lambda: rounds >= 2)
    assert streams == []
    alice = await a.join("alice")
    await until(lambda: streams.count("user") >= 2 and streams.count("all") >= 2)
    assert len(transport_of(alice).frames) == 1
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []


async def test_a_round_of_checks_takes_its_time_and_a_resync_takes_none(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them reads every stream once."""
    monkeypatch.setattr("bff.cluster.stream_hub._BATCH", 1)
    a = await start(stream_check_seconds=3600)
    await until(lambda: not a.context.resync_needed.is_set())
    for user_id in ("alice", "bob"):
        await a.subscriptions.subscribe(await a.join(user_id), {"prices": None})
    await until(lambda: not a.subscriptions._tasks)
    reads = SlowReads(a, monkeypatch)
    reads.may_go_on.set()
    every_stream = [a.streams.keys_of(tracker) for tracker in a.streams.trackers()]
    waits: list[float] = []
    may_go_on = asyncio.Event()

    async def record(within: float) -> bool:
        waits.append(within)
        await may_go_on.wait()
        if len(waits) > 8:
            await asyncio.Event().wait()
        return False

    monkeypatch.setattr(a.stream_hub, "_is_resync_needed", record)
    a.context.resync_needed.set()
    await until(lambda: bool(waits))
    assert reads.of_streams == Counter(every_stream)
    assert not a.context.resync_needed.is_set()
    may_go_on.set()
    await until(lambda: len(waits) == 9)
    assert waits == [900] * 9
    assert reads.of_streams == Counter(every_stream * 3)


async def test_messages_missed_while_the_lease_was_lost_come_with_the_new_lease(
    start: StartInstance,
) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    await b.index.reaper.reap(a.index.lease.member)
    sent = await b.messenger.to_user("alice", "n", "no connection in the index")
    assert sent.addressed == 0
    await a.index.renew()
    await until(lambda: numbers_of(alice) == ["no connection in the index"])


async def test_streams_are_compared_periodically(
    redis: RedisClient, settings: Settings, start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await start(stream_check_seconds=0.2)
    alice = await a.join("alice")
    await DropMessages(a, monkeypatch).during(1, lambda n: a.messenger.to_all("n", n))
    await until(lambda: numbers_of(alice) == [0])


async def test_a_tracker_without_connections_delivers_nothing_to_later_ones(
    start: StartInstance,
) -> None:
    """A batch of trackers may be compared up to `STREAM_CHECK_SECONDS` after it was made."""
    a = await start()
    before = await a.join("alice")
    tracker = a.streams.of_user("alice")
    assert tracker is not None
    await a.leave(before)
    for number in range(3):
        await a.messenger.to_user("alice", "n", number)
    alice = await a.join("alice")
    await a.stream_hub._sync(tracker)
    assert numbers_of(alice) == []
    await a.messenger.to_user("alice", "n", 3)
    await until(lambda: numbers_of(alice) == [3])


async def test_lost_messages_are_reported_and_the_socket_stays_open(
    start: StartInstance, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    restored: list[Any] = []
    monkeypatch.setattr(a.index, "restore", restored.append)
    lost = settings.max_stream_length + 5
    await DropMessages(a, monkeypatch).during(lost, lambda n: b.messenger.to_user("alice", "n", n))
    last = await b.messenger.to_user("alice", "n", "last")
    await until(lambda: gaps_of(alice) == [{"user": last.id}])
    await b.messenger.to_user("alice", "n", "next")
    await until(lambda: numbers_of(alice) == ["next"])
    assert alice.close_code is None
    (gap,) = (frame for frame in transport_of(alice).frames if b'"type":"gap"' in frame.payload)
    assert format_cursor(gap.cursor) == last.id, (
        "an event stream must continue at the gap's position"
    )
    assert metric(a, "bff_gaps_total", stream="user") == 1
    assert restored == [], "Redis has lost nothing else"


async def test_a_message_that_arrives_while_missing_ones_are_read_is_delivered(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await start(), await start()
    alice, bob = await a.join("alice"), await a.join("bob")
    read = a.stream_hub._reader.read

    async def read_slowly(*what: Any) -> Page:
        page = await read(*what)
        if len(numbers_of(bob)) == 0:
            await b.messenger.to_user("alice", "n", 2)
            await b.messenger.to_user("bob", "n", "alice's message was received before this one")
            await until(lambda: len(numbers_of(bob)) == 1)
        return page

    await DropMessages(a, monkeypatch).during(1, lambda n: b.messenger.to_user("alice", "n", n))
    monkeypatch.setattr(a.stream_hub._reader, "read", read_slowly)
    await b.messenger.to_user("alice", "n", 1)
    await until(lambda: numbers_of(alice) == [0, 1, 2])


async def test_lost_data_of_redis_is_reported_and_new_messages_are_delivered(
    start: StartInstance, redis: RedisClient, settings: Settings
) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    await b.messenger.to_user("alice", "n", "before")
    await until(lambda: numbers_of(alice) == ["before"])
    await wipe(redis, settings)
    for each in (a, b):
        await each.index.renew()
    for number in range(3):
        await b.messenger.to_user("alice", "n", number)
    await until(lambda: numbers_of(alice) == ["before", 0, 1, 2])
    (position,) = (gap["user"] for gap in gaps_of(alice) if "user" in gap)
    assert position.endswith("/0")


async def test_after_a_loss_what_redis_has_since_then_is_delivered(
    start: StartInstance, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    await b.messenger.to_user("alice", "n", "before")
    await until(lambda: numbers_of(alice) == ["before"])
    keys = a.context.keys.user("alice")
    await redis.delete(keys.meta, keys.stream)
    await DropMessages(a, monkeypatch).during(3, partial(b.messenger.to_user, "alice", "n"))
    a.context.resync_needed.set()
    await until(lambda: numbers_of(alice) == ["before", 0, 1, 2])
    (position,) = (gap["user"] for gap in gaps_of(alice))
    assert position.endswith("/0")


@pytest.mark.parametrize("meanwhile", ["it is read", "the entries are restored"])
async def test_what_was_delivered_while_a_loss_was_examined_is_not_reported_as_lost(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    a = await start()
    alice = await a.join("alice")
    tracker = a.streams.of_user("alice")
    assert tracker is not None
    read, pages = a.stream_hub._reader.read, 0

    async def send(*_: Any) -> None:
        await a.messenger.to_user("alice", "n", "live")
        await until(lambda: numbers_of(alice) == ["live"])
        drop = DropMessages(a, monkeypatch)
        await drop.during(1, lambda _: a.messenger.to_user("alice", "n", "missed"))

    async def read_lost(stream: StreamKeys, after: Position | None = None) -> Page:
        nonlocal pages
        pages += 1
        if pages > 1:
            return await read(stream, after)
        if meanwhile == "it is read":
            await send()
        return Page(Position("another", 0), complete=False)

    monkeypatch.setattr(a.stream_hub._reader, "read", read_lost)
    if meanwhile == "the entries are restored":
        monkeypatch.setattr(a.index, "restore", send)
    await a.stream_hub._sync(tracker)
    assert numbers_of(alice) == ["live", "missed"]
    assert gaps_of(alice) == []


async def test_the_entries_of_a_user_are_restored_when_a_node_lost_them(
    start: StartInstance, redis: RedisClient
) -> None:
    """In a cluster the lease may be on another node, and still be valid."""
    a, b = await start(stream_check_seconds=0.1), await start()
    alice = await a.join("alice")
    await b.messenger.to_user("alice", "n", "before")
    await until(lambda: numbers_of(alice) == ["before"])
    keys = a.messenger._keys.user("alice")
    for key in (keys.meta, keys.stream, a.index._keys.connections("alice")):
        await redis.delete(key)

    async def is_restored() -> bool:
        return len(await b.index.connections_of("alice")) == 1

    await until(is_restored)
    sent = await b.messenger.to_user("alice", "n", 1)
    assert sent.addressed == 1
    await until(lambda: numbers_of(alice) == ["before", 1])
    assert a.index.lease.generation == 1


async def test_a_connection_that_joins_after_a_loss_gets_no_gap(
    start: StartInstance, redis: RedisClient, settings: Settings
) -> None:
    a = await start()
    await a.join("alice")
    await wipe(redis, settings)
    await a.index.renew()
    late = await a.join("alice")
    await a.messenger.to_user("alice", "n", 1)
    await until(lambda: numbers_of(late) == [1])
    assert gaps_of(late) == []


async def test_a_connect_that_finds_a_new_epoch_reports_the_loss_to_the_other_connections(
    start: StartInstance, redis: RedisClient, settings: Settings
) -> None:
    """Before the next message, and before the lease is renewed."""
    a = await start()
    alice = await a.join("alice")
    await wipe(redis, settings)
    late = await a.join("alice")
    await until(lambda: any("user" in gap for gap in gaps_of(alice)))
    assert gaps_of(late) == []


async def test_a_message_that_came_before_a_page_of_an_older_epoch_is_delivered(
    start: StartInstance,
) -> None:
    """Redis lost its data after it had replied to the connect."""
    a = await start()
    alice = await a.join("alice")
    tracker = a.streams.of_user("alice")
    assert tracker is not None
    tracker.position = None
    await a.messenger.to_user("alice", "n", 1)
    await until(lambda: tracker.undelivered is not None)
    at = Position("older", 5)
    tracker.catching_up[alice] = catch_up = CatchUp()
    await a.stream_hub.catch_up(alice, tracker, catch_up, at, Page(at, complete=True))
    await until(lambda: numbers_of(alice) == [1])


async def test_a_connection_whose_page_is_of_an_epoch_before_that_of_the_others_gets_a_gap(
    start: StartInstance, redis: RedisClient, settings: Settings
) -> None:
    """Redis lost its data after it had replied to the connect, and the others know it already."""
    a = await start()
    alice = await a.join("alice")
    late = await a.join("alice")
    tracker = a.streams.of_user("alice")
    assert tracker is not None
    before = tracker.position
    assert before is not None
    tracker.catching_up[late] = catch_up = CatchUp()
    await wipe(redis, settings)
    await a.messenger.to_user("alice", "n", 0)
    a.context.resync_needed.set()
    await until(lambda: numbers_of(alice) == [0])
    await a.stream_hub.catch_up(late, tracker, catch_up, before, Page(before, complete=True))
    await a.index.renew()
    await a.messenger.to_user("alice", "n", 1)
    await until(lambda: numbers_of(alice) == [0, 1])
    assert numbers_of(late) == [1]
    assert tracker.position is not None
    gaps = [gap["user"] for gap in gaps_of(late) if "user" in gap]
    assert gaps == [Position(tracker.position.epoch, 1).id_in("user")]


@pytest.mark.parametrize(
    ("epoch", "step", "is_read"),
    [("same", -1, False), ("same", 0, False), ("same", 1, True), ("another", -1, True)],
)
async def test_a_first_connection_causes_a_read_only_if_a_message_came_after_its_page(
    start: StartInstance, epoch: str, step: int, is_read: bool
) -> None:
    a = await start()
    alice = await a.join("alice")
    tracker = a.streams.of_user("alice")
    assert tracker is not None
    at = Position("same", 5)
    tracker.position, tracker.undelivered = None, Position(epoch, at.offset + step)
    tracker.catching_up[alice] = catch_up = CatchUp()
    await a.stream_hub.catch_up(alice, tracker, catch_up, at, Page(at, complete=True))
    assert bool(a.stream_hub._tasks) is is_read


async def test_a_connection_that_leaves_while_it_catches_up_gets_no_gap(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await start()
    alice = await a.join("alice")
    tracker = a.streams.of_user("alice")
    assert tracker is not None
    assert tracker.position is not None
    at, tip = tracker.position, Position(tracker.position.epoch, tracker.position.offset + 9)
    tracker.position = tip
    tracker.catching_up[alice] = catch_up = CatchUp()

    async def leave(*_: Any) -> Page:
        del tracker.catching_up[alice]
        return Page(tip, complete=False)

    monkeypatch.setattr(a.stream_hub._reader, "read", leave)
    await a.stream_hub.catch_up(alice, tracker, catch_up, at, Page(tip, complete=True))
    assert gaps_of(alice) == []
    assert metric(a, "bff_gaps_total", stream="user") == 0


async def test_a_loss_that_is_found_while_a_connection_catches_up_is_reported_and_counted(
    start: StartInstance, redis: RedisClient
) -> None:
    a = await start()
    alice = await a.join("alice")
    tracker = a.streams.of_user("alice")
    assert tracker is not None
    for number in range(3):
        await a.messenger.to_user("alice", "n", number)
    await until(lambda: numbers_of(alice) == [0, 1, 2])
    assert tracker.position is not None
    await redis.delete(a.streams.keys_of(tracker).stream)
    at = Position(tracker.position.epoch, 1)
    tracker.catching_up[alice] = catch_up = CatchUp()
    await a.stream_hub.catch_up(alice, tracker, catch_up, at, Page(at, complete=True))
    assert gaps_of(alice) == [{"user": tracker.position.id_in("user")}]
    assert metric(a, "bff_gaps_total", stream="user") == 1
    assert not tracker.catching_up


async def test_leave_removes_all_state(start: StartInstance) -> None:
    a = await start()
    alice = await a.join("alice")
    await a.subscriptions.subscribe(alice, {"prices": None})
    await a.leave(alice)
    assert a.streams.of_user("alice") is None
    assert a.streams.of_topic("prices") is None
    assert not a.streams.all.catching_up
    assert list(a.registry) == []


async def test_messages_that_came_live_while_they_were_read_are_no_holes(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The metric of holes counts what pub/sub has lost, and is alerted on."""
    a = await start()
    alice = await a.join("alice")
    (tracker,) = [one for one in a.stream_hub._streams.trackers() if one.stream == "user"]
    await DropMessages(a, monkeypatch).during(1, partial(a.messenger.to_user, "alice", "n"))
    read = a.stream_hub._reader.read

    async def read_late(*arguments: Any) -> Page:
        page = await read(*arguments)
        tracker.position = page.tip
        return page

    monkeypatch.setattr(a.stream_hub._reader, "read", read_late)
    assert not await a.stream_hub._sync_page(tracker)
    assert (metric(a, "bff_holes_total"), numbers_of(alice)) == (0, [])


async def test_a_closed_connection_does_not_catch_up(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await start()
    alice = await a.join("alice")
    (tracker,) = [one for one in a.stream_hub._streams.trackers() if one.stream == "user"]
    assert tracker.position is not None
    reads: list[Any] = []
    monkeypatch.setattr(a.stream_hub._reader, "read", reads.append)
    at, tip = tracker.position, Position(tracker.position.epoch, tracker.position.offset + 9)
    tracker.catching_up[alice] = catch_up = CatchUp()
    tracker.position = tip
    alice.close(CloseCode.DRAIN)
    page = Page(messages=[], tip=tip, complete=True)
    await a.stream_hub.catch_up(alice, tracker, catch_up, at, page)
    assert reads == []
    assert catch_up.read_up_to is None
