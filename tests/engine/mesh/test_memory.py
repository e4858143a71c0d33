"""The in-process mesh acts as RabbitMQ would, as far as one process can."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from bff.errors import Code, Outcome, Problem
from bff.mesh import memory
from bff.mesh.client import MeshClient
from bff.mesh.events import EventHandler, MeshEvent
from bff.mesh.memory import MemoryBroker, MemoryTransport
from bff.mesh.service import Service
from bff.settings import Settings
from bff.telemetry.metrics import Metrics
from bff.testing import until


@pytest.fixture
def amqp_url() -> str:
    return "memory://"


class Mesh:
    """Clients of one broker."""

    def __init__(self, settings: Settings) -> None:
        self.broker = MemoryBroker()
        self.clients: list[MeshClient] = []
        self._settings = settings

    async def client(self, *services: Service, handler: EventHandler | None = None) -> MeshClient:
        transport = MemoryTransport(self._settings.app_name, self.broker)
        made = MeshClient(self._settings, Metrics(), transport)
        for service in services:
            made.add_service(service)
        if handler is not None:
            made.add_event_handler(handler)
        self.clients.append(made)
        await made.start()
        return made


@pytest.fixture
async def mesh(settings: Settings) -> AsyncIterator[Mesh]:
    mesh = Mesh(settings)
    yield mesh
    for client in mesh.clients:
        await client.stop()


class Waiter(Service):
    """A service whose calls wait until the test lets them go on."""

    def __init__(self) -> None:
        super().__init__("waiter")
        self.counts: Counter[str] = Counter()
        self.go_on = asyncio.Event()

        @self.method("wait")
        async def wait() -> str:
            self.counts["begun"] += 1
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.counts["cancelled"] += 1
                raise
            self.counts["ended"] += 1
            return "waited"


async def test_calls_are_cancelled_when_the_last_client_stops(mesh: Mesh) -> None:
    waiter = Waiter()
    server, first, second = await mesh.client(waiter), await mesh.client(), await mesh.client()
    await first.command("waiter", "wait", {})
    await until(lambda: waiter.counts["begun"] == 1)
    await server.stop()
    await first.stop()
    assert waiter.counts["cancelled"] == 0
    await second.stop()
    assert waiter.counts["cancelled"] == 1


async def test_a_reply_whose_caller_has_gone_or_that_nobody_wants_is_dropped(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    waiter = Waiter()
    await mesh.client(waiter)
    first, second, third = [await mesh.client() for _ in range(3)]
    calls = [
        asyncio.create_task(one.request("waiter", "wait", {}, timeout=20))
        for one in (first, second, third)
    ]
    await third.command("waiter", "wait", {})
    await until(lambda: waiter.counts["begun"] == 4)
    await first.stop()
    mesh.broker.interrupt()
    waiter.go_on.set()
    await until(lambda: waiter.counts["ended"] == 4)
    mesh.broker.resume()
    for problem in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(problem, Problem)
        assert (problem.code, problem.outcome) == (Code.MESH_UNAVAILABLE, Outcome.UNKNOWN)
    assert await third.request("waiter", "wait", {}) == "waited"
    late = ("bff_mesh_late_replies_total", {"service": "waiter"})
    assert third._metrics.registry.get_sample_value(*late) is None, "the reply was lost"
    assert [one.message for one in caplog.records] == []


async def test_instances_take_turns_and_calls_beyond_the_limit_are_not_sent(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "MAX_CALLS", 4)
    one, two = Waiter(), Waiter()
    await mesh.client(one)
    await mesh.client(two)
    caller = await mesh.client()
    for _ in range(4):
        await caller.command("waiter", "wait", {})
    await until(lambda: one.counts["begun"] + two.counts["begun"] == 4)
    assert one.counts["begun"] == two.counts["begun"] == 2
    with pytest.raises(Problem) as caught:
        await caller.command("waiter", "wait", {})
    assert caught.value.outcome is Outcome.NOT_SENT
    one.go_on.set()
    two.go_on.set()
    await until(lambda: one.counts["ended"] + two.counts["ended"] == 4)
    assert await caller.request("waiter", "wait", {}) == "waited"


async def test_a_service_can_be_stopped_and_started_again(mesh: Mesh) -> None:
    waiter = Waiter()
    waiter.go_on.set()
    server, caller = await mesh.client(waiter), await mesh.client()
    for _ in range(2):
        assert await caller.request("waiter", "wait", {}) == "waited"
        await server.stop()
        await server.stop()
        with pytest.raises(Problem) as caught:
            await caller.request("waiter", "wait", {})
        assert caught.value.code is Code.SERVICE_UNAVAILABLE
        value = server._metrics.registry.get_sample_value
        assert value("bff_mesh_connected", {"mesh": "mesh"}) == 0
        await server.start()
        assert value("bff_mesh_connected", {"mesh": "mesh"}) == 1


async def test_an_interruption_ends_the_handling_of_an_event_which_comes_again_before_the_others(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest event beyond the limit of the queue moves to the overflow."""
    monkeypatch.setattr(memory, "MAX_EVENTS", 3)
    tried: list[Any] = []
    cancelled, go_on = asyncio.Event(), asyncio.Event()

    async def handle(event: MeshEvent) -> None:
        tried.append(event.payload)
        try:
            await go_on.wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    client = await mesh.client(handler=EventHandler("first", "a", handle))
    await client.publish("a", 0)
    await until(lambda: tried == [0])
    mesh.broker.interrupt()
    await cancelled.wait()
    mesh.broker.resume()
    await until(lambda: tried == [0, 0])
    for number in range(1, 5):
        await client.publish("a", number)
    assert len(mesh.broker.overflow) == 2
    go_on.set()
    await until(lambda: len(tried) == 5)
    assert tried == [0, 0, 2, 3, 4]


async def test_no_queue_and_no_right_can_be_missing(mesh: Mesh) -> None:
    client = await mesh.client(Waiter())
    await client.wait_until_rights_checked()
    assert await client.check_queues(client) == {}
    assert await client.unconsumed_events(["first"]) == {}
