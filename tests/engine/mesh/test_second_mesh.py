"""Services behind a second mesh client: its state is part of the first one's."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from bff.mesh.client import MeshClient
from bff.mesh.events import EventHandler, MeshEvent, RetryEvent
from bff.mesh.memory import MemoryBroker, MemoryTransport
from bff.mesh.service import Service
from bff.mesh.transport import MeshStatus, Receiver
from bff.settings import Settings
from bff.telemetry.metrics import Metrics
from bff.testing import until


@pytest.fixture
def amqp_url() -> str:
    return "memory://"


def client(settings: Settings, metrics: Metrics, broker: MemoryBroker, name: str) -> MeshClient:
    return MeshClient(settings, metrics, MemoryTransport(settings.app_name, broker), name=name)


async def test_calls_go_to_the_mesh_of_their_service_and_both_must_be_connected(
    settings: Settings, metrics: Metrics
) -> None:
    brokers = MemoryBroker(), MemoryBroker()
    first = client(settings, metrics, brokers[0], "mesh")
    second = client(settings, metrics, brokers[1], "legacy")
    for broker, word in zip(brokers, ("first", "second"), strict=True):
        service = Service("names")
        service.add("name", _returning(word))
        broker.serve(service)
    other = Service("other")
    other.add("name", _returning("other"))
    brokers[0].serve(other)
    first.route(["names"], second)
    assert not first.status.connected
    await first.start()
    assert first.status.connected
    assert await first.request("names", "name", {}) == "second"
    assert await first.request("other", "name", {}) == "other"

    brokers[1].interrupt()
    assert (first.status.connected, first.status.reason) == (False, "legacy: interrupted")
    assert await first.request("other", "name", {}) == "other", "the first mesh still works"
    brokers[1].resume()
    brokers[0].interrupt()
    assert (first.status.connected, first.status.reason) == (False, "interrupted")
    assert await first.request("names", "name", {}) == "second"
    brokers[0].resume()
    assert first.status.connected

    value = metrics.registry.get_sample_value
    assert value("bff_mesh_connected", {"mesh": "legacy"}) == 1
    brokers[1].interrupt()
    assert value("bff_mesh_connected", {"mesh": "legacy"}) == 0
    assert value("bff_mesh_connected", {"mesh": "mesh"}) == 1
    await first.stop()
    assert not first.status.connected
    assert not second.status.connected


def _returning(word: str) -> Any:
    async def answer(_: object) -> str:
        return word

    return answer


async def test_a_stuck_event_handler_of_either_mesh_is_reported(
    settings: Settings, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bff.mesh.receiver.STUCK_SECONDS", 0)
    first = client(settings, metrics, MemoryBroker(), "mesh")
    second = client(settings, metrics, MemoryBroker(), "legacy")
    first.route(["names"], second)

    async def retry(_: MeshEvent) -> None:
        raise RetryEvent("the printer is out of paper")

    topic = f"t{secrets.token_hex(4)}"
    second.add_event_handler(EventHandler("printing", topic, retry))
    await first.start()
    assert first.stuck == ""
    await second.publish(topic, 1)
    await until(lambda: "'printing'" in first.stuck)
    assert "the printer is out of paper" in first.stuck
    await first.stop()


async def test_a_service_name_in_place_of_a_list_is_refused(settings: Settings) -> None:
    first, second = (linked(settings, Link(), name) for name in "ab")
    with pytest.raises(TypeError, match="services"):
        first.route("names", second)


async def test_routes_are_followed_over_several_clients(
    settings: Settings, metrics: Metrics
) -> None:
    brokers = MemoryBroker(), MemoryBroker(), MemoryBroker()
    first, second, third = (
        client(settings, metrics, broker, name) for broker, name in zip(brokers, "abc", strict=True)
    )
    service = Service("names")
    service.add("name", _returning("third"))
    brokers[2].serve(service)
    first.route(["names"], second)
    second.route(["names"], third)
    await first.start()
    assert await first.request("names", "name", {}) == "third"
    assert list((await first.describe("names")).methods) == ["name"]
    await first.stop()


async def test_routes_that_lead_back_are_refused(settings: Settings) -> None:
    first, second, third = (linked(settings, Link(), name) for name in "abc")
    first.route(["names"], second)
    second.route(["names"], third)
    for client, to in ((third, first), (second, first), (first, first.with_context({"user": 1}))):
        with pytest.raises(ValueError, match="'names'"):
            client.route(["names", "others"], to)


class Link:
    """A transport that counts its starts and stops."""

    def __init__(self, error: Exception | None = None) -> None:
        self.running = 0
        self.started = 0
        self._error = error

    @property
    def status(self) -> MeshStatus:
        return MeshStatus(self.running == 1, f"{self.running} running")

    @property
    def consumers_down(self) -> dict[str, str]:
        return {} if self.running else {"queue": "gone"}

    async def start(self, receiver: Receiver, *_: object) -> None:
        self._receiver = receiver
        self.started += 1
        self.running += 1
        receiver.on_status()

    async def stop(self) -> None:
        self.running -= 1
        self._receiver.on_status()
        if self._error is not None:
            raise self._error


def linked(settings: Settings, link: Link, name: str) -> MeshClient:
    transport: Any = link
    return MeshClient(settings, Metrics(), transport, name=name)


async def test_a_mesh_that_cannot_be_stopped_does_not_keep_the_others(settings: Settings) -> None:
    links = [Link(), Link(OSError("still busy")), Link()]
    first, second, third = (
        linked(settings, link, name) for link, name in zip(links, "abc", strict=True)
    )
    first.route(["two"], second)
    first.route(["three"], third)
    await first.start()
    assert [link.running for link in links] == [1, 1, 1]
    with pytest.raises(OSError, match="still busy"):
        await first.stop()
    assert [link.running for link in links] == [0, 0, 0]


async def test_each_mesh_starts_and_stops_once_however_often_it_is_routed_to(
    settings: Settings,
) -> None:
    """From two clients, back to the first one, and under another context."""
    links = [Link() for _ in range(3)]
    first, second, third = (
        linked(settings, link, name) for link, name in zip(links, "abc", strict=True)
    )
    first.route(["two", "also two"], second)
    first.route(["three"], third.with_context({"user_id": "u"}))
    second.route(["three"], third)
    third.route(["one"], first)
    assert first.consumers_down == {"queue": "gone", "b: queue": "gone", "c: queue": "gone"}
    await first.start()
    assert first.status.connected
    assert first.consumers_down == {}
    await links[2].stop()
    assert (first.status.connected, first.status.reason) == (False, "c: 0 running")
    links[2].running = 1
    await first.stop()
    assert [(link.started, link.running) for link in links] == [(1, 0)] * 3


async def test_queues_that_are_not_consumed_are_counted_for_each_mesh(
    settings: Settings, metrics: Metrics
) -> None:
    link = Link()
    transport: Any = link
    mesh = MeshClient(settings, metrics, transport, name="b")

    def down() -> float | None:
        return metrics.registry.get_sample_value("bff_mesh_consumers_down", {"mesh": "b"})

    await mesh.start()
    assert down() == 0
    await mesh.stop()
    assert down() == 1
