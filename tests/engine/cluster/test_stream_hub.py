"""Nothing is lost in silence: what was missed comes in order, or a word says it is gone."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from bff.cluster.stream_tracker import StreamTracker
from bff.cluster.streams import Page
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
    """What the connection got of the events that these tests send."""
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
    """Lose everything, as a Redis that was started anew without its data."""
    await redis.delete(*[key async for key in redis.scan_iter(match=f"{settings.prefix}*")])


class IgnoreInput:
    """Makes an instance miss what is published meanwhile, as a lost message would."""

    def __init__(self, instance: ClusterMember, monkeypatch: pytest.MonkeyPatch) -> None:
        self._missed = 0
        self._patch = monkeypatch
        self._hub = instance.hub

    async def during(self, sends: int, send: Any) -> None:
        with self._patch.context() as patch:
            patch.setattr(self._hub, "hear", self._miss)
            for number in range(sends):
                await send(number)
            await until(lambda: self._missed >= sends)

    def _miss(self, tracker: StreamTracker, position: Position, text: bytes) -> int:
        self._missed += 1
        return 0


# Coming back


async def test_who_comes_back_gets_exactly_what_was_missed(start: StartInstance) -> None:
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


async def test_both_streams_are_recovered_each_for_itself(
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


async def test_who_has_missed_nothing_is_told_so(start: StartInstance) -> None:
    a = await start()
    seen = await a.messenger.to_user("alice", "n", 0)
    alice = await a.join("alice", since=str(seen.id))
    assert hello_of(alice)["recovered"] == {"user": True}
    assert hello_of(alice)["positions"]["user"] == seen.id
    assert numbers_of(alice) == []


async def test_the_position_of_a_quiet_user_stays_good_for_a_day(
    start: StartInstance, redis: RedisClient, settings: Settings
) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    sent = await a.messenger.to_user("alice", "n", 0)
    await a.leave(alice)
    stream = a.hub.keys_of(StreamTracker("user", "alice"))
    assert 0 < await redis.ttl(stream.stream) <= settings.stream_retention_seconds
    assert (
        settings.stream_retention_seconds
        < await redis.ttl(stream.meta)
        <= settings.position_retention_seconds
    )
    await redis.delete(stream.stream)  # as when its time is up
    back = await b.join("alice", since=str(sent.id))
    assert hello_of(back)["recovered"] == {"user": True}


async def test_who_has_seen_no_message_yet_misses_none(start: StartInstance) -> None:
    a, b = await start(), await start()
    before = await a.join("alice")
    await a.leave(before)
    await a.messenger.to_user("alice", "n", 1)
    alice = await b.join("alice", since=hello_of(before)["positions"]["user"])
    assert hello_of(alice)["recovered"] == {"user": True}
    assert numbers_of(alice) == [1]


async def test_what_the_stream_has_no_more_is_not_sent_in_part(
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
async def test_a_position_that_never_was_recovers_nothing(start: StartInstance, since: str) -> None:
    a = await start()
    sent = await a.messenger.to_user("alice", "n", 0)
    epoch = Position.parse(str(sent.id))[1].epoch
    alice = await a.join("alice", since=since.format(epoch=epoch))
    assert hello_of(alice)["recovered"] == {"user": False}
    assert numbers_of(alice) == []


async def test_joining_in_the_middle_of_a_flow_neither_misses_nor_repeats(
    start: StartInstance,
) -> None:
    """Of each that joins the numbers are consecutive from its position on, whatever came when."""
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


async def test_a_page_waits_until_the_transport_has_room(start: StartInstance) -> None:
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
    assert alice.closing is None


async def test_a_socket_that_makes_no_room_is_closed_as_slow(
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
    assert alice.closing == CloseCode.SLOW_CONSUMER


# Live sockets


async def test_a_hole_is_filled_before_what_comes_after_it(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    await IgnoreInput(a, monkeypatch).during(5, lambda n: b.messenger.to_user("alice", "n", n))
    await b.messenger.to_user("alice", "n", 5)
    await until(lambda: 5 in numbers_of(alice))
    assert numbers_of(alice) == list(range(6))
    assert gaps_of(alice) == []
    assert metric(a, "bff_holes_total") == 1


async def test_a_message_lost_at_the_end_is_found_by_comparing(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    await IgnoreInput(a, monkeypatch).during(2, lambda n: b.messenger.to_user("alice", "n", n))
    assert numbers_of(alice) == []
    a.hub._missed.set()
    await until(lambda: numbers_of(alice) == [0, 1])


async def test_what_passed_by_while_the_lease_was_lost_comes_with_the_new_one(
    start: StartInstance,
) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    await b.index._reap_member(a.index.lease.member)
    sent = await b.messenger.to_user("alice", "n", "to nobody")
    assert sent.addressed == 0
    await a.index.renew()
    await until(lambda: numbers_of(alice) == ["to nobody"])


async def test_streams_are_compared_from_time_to_time_unasked(
    redis: RedisClient, settings: Settings, start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await start(stream_check_seconds=0.2)
    alice = await a.join("alice")
    await IgnoreInput(a, monkeypatch).during(1, lambda n: a.messenger.to_all("n", n))
    await until(lambda: numbers_of(alice) == [0])


async def test_a_stream_that_was_left_is_not_made_up_for_to_who_comes_later(
    start: StartInstance,
) -> None:
    """The streams that are compared together are gathered up to `STREAM_CHECK_SECONDS` before."""
    a = await start()
    before = await a.join("alice")
    left = a.hub.of_user("alice")
    assert left is not None
    await a.leave(before)
    for number in range(3):
        await a.messenger.to_user("alice", "n", number)
    alice = await a.join("alice")
    await a.hub._compare(left)
    assert numbers_of(alice) == []
    await a.messenger.to_user("alice", "n", 3)
    await until(lambda: numbers_of(alice) == [3])


async def test_what_is_lost_for_good_is_told_and_the_socket_stays(
    start: StartInstance, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    lost = settings.max_stream_length + 5
    await IgnoreInput(a, monkeypatch).during(lost, lambda n: b.messenger.to_user("alice", "n", n))
    last = await b.messenger.to_user("alice", "n", "last")
    await until(lambda: gaps_of(alice) == [{"user": last.id}])
    await b.messenger.to_user("alice", "n", "next")
    await until(lambda: numbers_of(alice) == ["next"])
    assert alice.closing is None
    (gap,) = (frame for frame in transport_of(alice).frames if b'"type":"gap"' in frame.payload)
    assert format_cursor(gap.positions) == last.id, "an event stream goes on where the gap says"
    assert metric(a, "bff_gaps_total", stream="user") == 1


async def test_what_comes_while_a_hole_is_read_is_not_forgotten(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await start(), await start()
    alice, bob = await a.join("alice"), await a.join("bob")
    read = a.hub._reader.read

    async def read_slowly(*what: Any) -> Page:
        page = await read(*what)
        if len(numbers_of(bob)) == 0:
            await b.messenger.to_user("alice", "n", 2)
            await b.messenger.to_user("bob", "n", "by now alice's has come too")
            await until(lambda: len(numbers_of(bob)) == 1)
        return page

    await IgnoreInput(a, monkeypatch).during(1, lambda n: b.messenger.to_user("alice", "n", n))
    monkeypatch.setattr(a.hub._reader, "read", read_slowly)
    await b.messenger.to_user("alice", "n", 1)
    await until(lambda: numbers_of(alice) == [0, 1, 2])


async def test_a_redis_that_lost_its_data_is_told_and_its_new_messages_come(
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


async def test_a_node_that_lost_a_users_index_gets_it_again(
    start: StartInstance, redis: RedisClient
) -> None:
    """In a cluster the lease may lie on another node, and live on."""
    a, b = await start(stream_check_seconds=0.1), await start()
    alice = await a.join("alice")
    await b.messenger.to_user("alice", "n", "before")
    await until(lambda: numbers_of(alice) == ["before"])
    keys = a.messenger._keys.user("alice")
    for key in (keys.meta, keys.stream, a.index._keys.connections("alice")):
        await redis.delete(key)

    async def is_entered() -> bool:
        return len(await b.index.connections_of("alice")) == 1

    await until(is_entered)
    sent = await b.messenger.to_user("alice", "n", 1)
    assert sent.addressed == 1
    await until(lambda: numbers_of(alice) == ["before", 1])
    assert a.index.lease.generation == 1


async def test_who_joins_after_a_loss_gets_no_gap_of_before(
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


async def test_who_leaves_leaves_nothing_behind(start: StartInstance) -> None:
    a = await start()
    alice = await a.join("alice")
    await a.subscriptions.subscribe(alice, {"prices": None})
    await a.leave(alice)
    assert a.hub.of_user("alice") is None
    assert a.hub.of_topic("prices") is None
    assert not a.hub.of_all().catching_up
    assert list(a.registry) == []
