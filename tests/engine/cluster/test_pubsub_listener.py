"""The listener detects that its subscription has stalled, and subscribes again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from bff.auth.caller import Caller
from bff.auth.revocations import SessionEnded
from bff.backoff import backoff_delays
from bff.cluster import pubsub_listener
from bff.cluster.control_log import ControlLog
from bff.cluster.envelopes import Kind, envelope
from bff.cluster.pubsub_listener import _run_until_first_ends
from bff.redis.client import RedisClient, create_pubsub, publish_probe
from bff.settings import Settings
from bff.testing import until

from tests.engine.cluster.conftest import ClusterMember, StartInstance
from tests.engine.cluster.test_stream_hub import numbers_of, transport_of
from tests.engine.cluster.test_subscriptions import events_of

SIGNED_IN = Caller("alice", "Alice", frozenset(), session_id="s-1", expires_at=2_000_000_000)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"pubsub_probe_seconds": 0.1})


async def test_it_reports_that_it_is_not_subscribed_yet(
    redis: RedisClient, settings: Settings
) -> None:
    assert ClusterMember(redis, settings).pubsub_listener.error == "not subscribed yet"


async def test_it_reports_no_error_once_it_is_subscribed(start: StartInstance) -> None:
    a = await start()
    assert a.pubsub_listener.error == ""


async def test_a_stalled_subscription_is_detected_and_replaced(start: StartInstance) -> None:
    a = await start()
    own_channel = a.pubsub_listener._own_channel
    a.pubsub_listener._own_channel = "a channel without subscribers"
    await until(lambda: bool(a.pubsub_listener.error))
    await until(lambda: a.metric("bff_pubsub_restarts_total") >= 2)
    await until(lambda: "nothing received" in a.pubsub_listener.error)
    a.pubsub_listener._own_channel = own_channel
    await until(lambda: a.pubsub_listener.error == "")


async def test_while_it_is_not_subscribed_nothing_is_lost_and_nothing_pretends_to_work(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections: list[Any] = []

    async def recorded(redis: RedisClient) -> Any:
        connections.append(await create_pubsub(redis))
        return connections[-1]

    monkeypatch.setattr(pubsub_listener, "create_pubsub", recorded)
    a, b = await start(pubsub_probe_seconds=5), await start()
    lost = connections[0]
    alice, bob = await a.join("alice"), await a.join("bob")
    await a.subscriptions.subscribe(bob, {"prices": None})
    await until(lambda: a.revocations._version is not None)
    channels = a.pubsub_listener._channels
    open_channels, is_down, may_open = channels.open, asyncio.Event(), asyncio.Event()

    async def open_later(pubsub: Any) -> None:
        is_down.set()
        await may_open.wait()
        await open_channels(pubsub)

    async def fail(message: object) -> None:
        raise ConnectionError("lost")

    with monkeypatch.context() as patch:
        patch.setattr(channels, "open", open_later)
        patch.setattr(a.pubsub_listener, "_on_message", fail)
        await b.messenger.to_user("alice", "n", "it breaks the connection")
        await is_down.wait()
    assert lost.connection is None, "its connection was closed"
    assert a.metric("bff_pubsub_subscribed") == 0
    assert a.metric("bff_pubsub_restarts_total") == 1
    assert "lost" in a.pubsub_listener.error
    await b.messenger.to_user("alice", "n", "while it was down")
    await b.revocations.revoke_session(SIGNED_IN.session_id)
    with pytest.raises(SessionEnded):
        await a.revocations.check(SIGNED_IN)
    subscribing = asyncio.create_task(a.subscriptions.subscribe(alice, {"prices": None}))
    await b.messenger.to_topic("prices", 1)
    assert not subscribing.done(), "its messages would be lost"
    may_open.set()
    await subscribing
    await until(lambda: numbers_of(alice) == ["it breaks the connection", "while it was down"])
    await until(lambda: events_of(bob, "prices") == [1])
    assert a.pubsub_listener.error == ""
    assert a.metric("bff_pubsub_subscribed") == 1


async def test_the_error_of_a_probe_is_reported_as_long_as_probes_fail(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await start()
    with monkeypatch.context() as patch:

        async def refuse(*_: object, **options: object) -> None:
            raise ConnectionError("refused")

        patch.setattr(pubsub_listener, "publish_probe", refuse)
        await until(lambda: "last probe: ConnectionError: refused" in a.pubsub_listener.error)
    await until(lambda: a.pubsub_listener.error == "")
    a.pubsub_listener._own_channel = "a channel without subscribers"
    restarts = a.metric("bff_pubsub_restarts_total")
    await until(lambda: a.metric("bff_pubsub_restarts_total") > restarts)
    assert "nothing received" in a.pubsub_listener.error
    assert "refused" not in a.pubsub_listener.error


async def test_a_first_probe_that_hangs_is_reported_and_the_subscription_is_tried_again(
    redis: RedisClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object, **options: object) -> None:
        await asyncio.Event().wait()

    instance = ClusterMember(redis, settings)
    with monkeypatch.context() as patch:
        patch.setattr(pubsub_listener, "publish_probe", hang)
        task = asyncio.create_task(instance.pubsub_listener.run())
        await until(lambda: "nothing received" in instance.pubsub_listener.error)
    await until(lambda: instance.pubsub_listener.error == "")
    task.cancel()


@pytest.mark.parametrize(
    ("kind", "turns"), [(Kind.USER_UNSTORED, 2), (Kind.USER, 2), (Kind.CLOSE_USER, 0)]
)
async def test_other_tasks_have_their_turn_while_messages_arrive_without_a_pause(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch, kind: Kind, turns: int
) -> None:
    """After ten frames: two for each message, and one for the bookkeeping of a stored one."""
    monkeypatch.setattr(pubsub_listener, "_FRAMES_PER_TURN", 10)
    a = await start()
    tabs = [await a.join("alice") for _ in range(2)]
    tracker = a.streams.of_user("alice")
    assert tracker is not None
    at = tracker.position
    assert at is not None
    had = 0

    async def other() -> None:
        nonlocal had
        while True:
            await asyncio.sleep(0)
            had += 1

    task = asyncio.create_task(other())
    await asyncio.sleep(0)
    a.pubsub_listener._written = 0
    for number in range(1, 11):
        parts = {
            Kind.USER_UNSTORED: ("alice", "{}"),
            Kind.USER: ("alice", at.epoch, str(at.offset + number), "{}"),
            Kind.CLOSE_USER: ("nobody", "4003"),
        }[kind]
        message = {"type": "message", "data": envelope(kind, *parts).encode()}
        await a.pubsub_listener._on_message(message)
    task.cancel()
    assert had == turns
    assert len(transport_of(tabs[0]).frames) == (1 if kind is Kind.CLOSE_USER else 11)


async def test_while_redis_is_away_it_waits_longer_and_longer_until_it_is_back(
    redis: RedisClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    begun = 0

    def recorded(first: float, longest: float) -> Iterator[float]:
        nonlocal begun
        begun += 1
        for delay in backoff_delays(first, longest):
            pauses.append(delay)
            yield delay

    async def refuse(_: object) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(pubsub_listener, "backoff_delays", recorded)
    listener = ClusterMember(redis, settings).pubsub_listener
    with monkeypatch.context() as patch:
        patch.setattr(pubsub_listener, "create_pubsub", refuse)
        task = asyncio.create_task(listener.run())
        await until(lambda: len(pauses) == 4)
        assert pauses[0] >= 0.04
        assert pauses[2] > pauses[0]
        assert "refused" in listener.error
        assert begun == 1
    await until(lambda: listener.error == "")
    listener._own_channel = "a channel without subscribers"
    await until(lambda: begun > 1)
    task.cancel()


async def test_any_message_proves_that_the_subscription_works(start: StartInstance) -> None:
    a = await start(pubsub_probe_seconds=3600)
    a.pubsub_listener._received_at -= 3 * 3600
    assert "nothing received" in a.pubsub_listener.error
    await a.messenger.to_all("n", 1)
    await until(lambda: a.pubsub_listener.error == "")
    assert a.metric("bff_pubsub_restarts_total") == 0


async def test_there_is_one_probe_and_one_read_of_the_control_log_in_each_interval(
    start: StartInstance, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: Counter[str] = Counter()
    apply_missed = ControlLog.apply_missed

    async def counted_probe(*what: Any, **options: Any) -> None:
        done["probe"] += 1
        await publish_probe(*what, **options)

    async def counted_read(*what: Any) -> None:
        done["read"] += 1
        await apply_missed(*what)

    monkeypatch.setattr(pubsub_listener, "publish_probe", counted_probe)
    monkeypatch.setattr(ControlLog, "apply_missed", counted_read)
    await start(pubsub_probe_seconds=3600)
    await until(lambda: len(done) == 2)
    for _ in range(10):
        await redis.ping()
    assert done == {"probe": 1, "read": 1}


async def test_a_message_that_cannot_be_processed_does_not_stop_the_listener(
    start: StartInstance,
) -> None:
    a = await start()
    alice = await a.join("alice")

    def broken(frame: object, limit: int) -> bool:
        raise RuntimeError("a bug")

    alice.transport.write = broken  # type: ignore[method-assign]
    bob = await a.join("bob")
    await a.messenger.to_user("alice", "x", 1)
    await a.messenger.to_user("bob", "x", 1)
    await until(lambda: len(bob.transport.frames) == 2)  # type: ignore[attr-defined]


async def test_a_lost_cancellation_of_the_probe_task_is_repeated() -> None:
    cancelled = 0

    async def loses_cancellation() -> None:
        nonlocal cancelled
        while cancelled < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled += 1

    async def stalls() -> None:
        await asyncio.sleep(0)
        raise TimeoutError("nothing received")

    async with asyncio.timeout(15):
        with pytest.raises(TimeoutError, match="nothing received"):
            await _run_until_first_ends(stalls(), loses_cancellation())
    assert cancelled == 2


@pytest.mark.parametrize(("probes", "is_stalled"), [(0.5, False), (2.5, False), (3.5, True)])
async def test_a_subscription_is_stalled_after_three_missed_probes(
    redis: RedisClient, settings: Settings, probes: float, is_stalled: bool
) -> None:
    slow = settings.model_copy(update={"pubsub_probe_seconds": 100.0})
    listener = ClusterMember(redis, slow).pubsub_listener
    listener._error = ""
    listener._received_at = asyncio.get_running_loop().time() - probes * 100
    assert bool(listener.error) is is_stalled
