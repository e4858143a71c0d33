"""How the drain time is divided, when connections are drained, and when clients reconnect."""

from __future__ import annotations

import asyncio
import logging
import selectors
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from bff.connections.close_codes import CloseCode
from bff.connections.connection import Connection
from bff.connections.registry import ConnectionRegistry
from bff.realtime.drain import Draining, DrainSchedule
from bff.realtime.handler_manager import HandlerManager

from tests.engine.doubles import RecordingTransport


def test_a_drain_time_is_divided() -> None:
    assert DrainSchedule.of(30) == DrainSchedule(
        unready_seconds=3, spread_seconds=26, warning_seconds=1, request_grace_seconds=5
    )
    assert DrainSchedule.of(5) == DrainSchedule(
        unready_seconds=0.5, spread_seconds=4, warning_seconds=0.5, request_grace_seconds=5
    )


@pytest.mark.parametrize("seconds", [0, 0.5, 4, 30, 600])
def test_no_part_is_longer_than_the_drain_time(seconds: float) -> None:
    schedule = DrainSchedule.of(seconds)
    parts = (schedule.unready_seconds, schedule.spread_seconds, schedule.warning_seconds)
    assert sum(parts) == pytest.approx(seconds)
    assert min(parts) >= 0
    assert schedule.request_grace_seconds <= seconds


def test_clients_reconnect_at_once_when_the_drain_time_spreads_them() -> None:
    assert {DrainSchedule.of(30).reconnect_delay(5000) for _ in range(100)} == {0.25}


@pytest.mark.parametrize(("seconds", "connections"), [(0, 2000), (30, 10_000)])
def test_random_delays_spread_more_connections(seconds: float, connections: int) -> None:
    schedule = DrainSchedule.of(seconds)
    waits = [schedule.reconnect_delay(connections) for _ in range(1000)]
    longest = connections / 200 - schedule.spread_seconds
    assert 0.25 <= min(waits) < 0.25 + longest / 4
    assert 0.25 + longest * 3 / 4 < max(waits) <= 0.25 + longest


class Skipping(selectors.DefaultSelector):
    """Waits for no timer: it only lets the time pass."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing would ever happen"
        self.now += timeout
        return super().select(0)


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop without pauses: its time passes at once when there is nothing to do."""

    def __init__(self) -> None:
        self._clock = Skipping()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


class Client:
    """A connection with a request that runs for `busy` seconds when it is drained."""

    def __init__(self, instance: Instance, busy: float) -> None:
        self.transport = RecordingTransport()
        self.connection = Connection(
            f"i.{len(instance.clients)}", "alice", self.transport, max_queue_bytes=1000
        )
        self.drain_sent = False
        self.drained_at: float | None = None
        self.closed_at: float | None = None
        self.reconnects_after = 0
        self._busy = busy
        self._instance = instance

    def send_drain(self, reconnect_after_ms: int) -> None:
        assert not self.drain_sent
        self.drain_sent = True
        self.reconnects_after = reconnect_after_ms
        self.drained_at = self._instance.now()

    async def finish(self) -> None:
        self.finished_at = self._instance.now()
        await asyncio.sleep(self._busy)
        self._instance.close(self)


class Instance:
    """An instance that is drained, with a clock that begins at 0."""

    def __init__(self, seconds: float) -> None:
        self.registry = ConnectionRegistry()
        self.clients: list[Client] = []
        self.draining = Draining(cast(HandlerManager, self), self.registry, seconds)
        self._begun = asyncio.get_running_loop().time()

    def __iter__(self) -> Any:
        return iter([one for one in self.clients if one.closed_at is None])

    def now(self) -> float:
        return round(asyncio.get_running_loop().time() - self._begun, 3)

    def connect(self, busy: float = 0) -> Client:
        client = Client(self, busy)
        self.clients.append(client)
        self.registry.register(client.connection)
        return client

    def close(self, client: Client) -> None:
        client.closed_at = self.now()
        self.registry.unregister(client.connection)


def on_skipping_loop(scenario: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await scenario()

    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        runner.run(run())


@pytest.mark.parametrize(
    ("seconds", "connections", "first", "interval", "warning"),
    [(30, 4, 3, 0.5, 1), (30, 52, 3, 0.5, 1), (30, 1040, 3, 0.025, 1), (0.5, 2, 0.05, 0.2, 0.05)],
)
def test_drain_frames_are_spread_evenly_and_each_connection_has_a_while_to_its_close(
    seconds: float, connections: int, first: float, interval: float, warning: float
) -> None:
    async def scenario() -> None:
        instance = Instance(seconds)
        for _ in range(connections):
            instance.connect()
        assert not instance.draining.begun
        draining = asyncio.create_task(instance.draining.drain())
        await asyncio.sleep(0)
        assert instance.draining.begun
        await draining
        for number, client in enumerate(instance.clients):
            assert client.drained_at == pytest.approx(first + number * interval, abs=0.01)
            assert client.finished_at == pytest.approx(client.drained_at + warning, abs=0.01)
            assert client.reconnects_after == 250
        last = first + (connections - 1) * interval + warning
        assert instance.now() == pytest.approx(last, abs=0.01), "it waits for nothing else"

    on_skipping_loop(scenario)


def test_a_connection_that_was_accepted_during_the_drain_is_drained_too() -> None:
    async def scenario() -> None:
        instance = Instance(30)
        instance.connect(busy=2)
        instance.connect()
        draining = asyncio.create_task(instance.draining.drain())
        await asyncio.sleep(3.2)
        late = instance.connect()
        await draining
        assert [one.drained_at for one in instance.clients] == [3, 3.5, 3.5]
        assert late.closed_at is not None
        assert instance.now() == 6

    on_skipping_loop(scenario)


def test_a_connection_that_was_accepted_when_all_others_have_their_frame_is_drained_too() -> None:
    """Its handshake waited for the keys of the identity provider, for Redis or for a policy."""

    async def scenario() -> None:
        instance = Instance(30)
        instance.connect(busy=10)
        draining = asyncio.create_task(instance.draining.drain())
        await asyncio.sleep(7.2)
        late = instance.connect()
        await draining
        assert late.drained_at is not None
        assert 7.2 <= late.drained_at <= 7.7
        assert late.finished_at == late.drained_at + 1
        assert instance.now() == 14, "it waits for the busy one only"

    on_skipping_loop(scenario)


@pytest.mark.parametrize("seconds", [30, 0])
def test_what_is_busy_after_the_drain_time_and_the_grace_is_closed(
    caplog: pytest.LogCaptureFixture, seconds: int
) -> None:
    async def scenario() -> None:
        instance = Instance(seconds)
        busy, idle = instance.connect(busy=1000), instance.connect()
        await instance.draining.drain()
        assert instance.now() == (seconds and seconds + 5)
        assert busy.transport.closed == (CloseCode.DRAIN, "drain")
        if seconds:
            assert idle.transport.closed is None, "it has left by itself"

    caplog.set_level(logging.INFO)
    on_skipping_loop(scenario)
    assert vars(caplog.records[-1])["seconds"] == (seconds and seconds + 5)
    warnings = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert len(warnings) == bool(seconds)


def test_a_drain_that_is_cancelled_closes_all() -> None:
    async def scenario() -> None:
        instance = Instance(30)
        clients = [instance.connect() for _ in range(3)]
        draining = asyncio.create_task(instance.draining.drain())
        await asyncio.sleep(1)
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining
        assert {one.transport.closed for one in clients} == {(CloseCode.DRAIN, "drain")}
        assert instance.now() == 1

    on_skipping_loop(scenario)
