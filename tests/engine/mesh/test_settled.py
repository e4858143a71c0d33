"""`on_settled` is called when an event or a call cannot be delivered again, and not before."""

from __future__ import annotations

import asyncio
import json
from functools import partial

import pytest
from bff.mesh.events import EventHandler, MeshEvent
from bff.mesh.messages import Delivery, MeshRequest
from bff.mesh.rabbitmq import consumer
from bff.mesh.rabbitmq import settled as settled_deliveries
from bff.mesh.rabbitmq.settled import AckedDeliveries
from bff.mesh.service import Service
from bff.settings import Settings
from bff.testing import until

from tests.engine.mesh.conftest import StartClient
from tests.engine.mesh.engines import Engine, RabbitEngine, raw


@pytest.fixture(autouse=True)
def redeclare_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "REDECLARE_SECONDS", 0.1)


async def test_an_ack_is_certain_after_two_later_replies() -> None:
    acked = AckedDeliveries()
    settled: list[int] = []
    await acked.command_replied()
    for number in range(1000):
        acked.add(Delivery("a", b"", "c", on_settled=[partial(settled.append, number)]))
    await acked.command_replied()
    assert settled == []
    await acked.command_replied()
    assert settled == list(range(1000))
    await acked.command_replied()
    assert len(settled) == 1000


async def test_what_is_settled_does_not_hold_up_other_tasks() -> None:
    acked = AckedDeliveries()
    settled: list[int] = []
    for number in range(1000):
        acked.add(Delivery("a", b"", "c", on_settled=[partial(settled.append, number)]))
    await acked.command_replied()
    settling = asyncio.create_task(acked.command_replied())
    most, before = 0, 0
    while not settling.done():
        await asyncio.sleep(0)
        most, before = max(most, len(settled) - before), len(settled)
    assert len(settled) == 1000
    assert most <= 40


async def test_a_handled_event_is_settled(start_client: StartClient, engine: Engine) -> None:
    settled: list[str] = []

    async def handle(event: MeshEvent) -> None:
        if event.payload == "bad":
            raise ValueError(event.payload)
        event.on_settled.append(lambda: settled.append(event.payload))

    await start_client(EventHandler("first", "a.b", handle))
    for payload in ("one", "bad", "two"):
        await engine.send_raw_event("a.b", raw("a.b", payload))
    await until(lambda: len(settled) == 2)
    assert settled == ["one", "two"]


async def test_an_answered_call_is_settled(start_client: StartClient, engine: Engine) -> None:
    settled: list[str] = []

    async def note(request: MeshRequest) -> None:
        request.on_settled.append(lambda: settled.append(request.method))

    service = Service("settles")
    service.add("note", note)
    mesh = await start_client(services=[service])
    await until(lambda: mesh.status.connected)
    await mesh.request("settles", "note", {})
    await until(lambda: bool(settled))


async def test_an_event_whose_ack_may_be_lost_is_not_settled(
    start_client: StartClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks after the ack was written, and before a later reply."""
    if not isinstance(engine, RabbitEngine):
        pytest.skip("only RabbitMQ can lose an ack")
    monkeypatch.setattr(consumer, "REDECLARE_SECONDS", 3600)
    settled: list[str] = []
    handled = asyncio.Event()

    async def handle(event: MeshEvent) -> None:
        event.on_settled.append(lambda: settled.append(event.payload))
        engine.proxy.silent = True
        handled.set()

    mesh = await start_client(EventHandler("first", "a.b", handle))
    await engine.send_raw_event("a.b", raw("a.b", "one"))
    await handled.wait()
    handled.clear()
    monkeypatch.setattr(consumer, "REDECLARE_SECONDS", 0.1)
    await engine.interrupt()
    await until(lambda: not mesh.status.connected)
    assert settled == []
    engine.proxy.silent = False
    await engine.resume()
    await handled.wait()
    engine.proxy.silent = False
    await until(lambda: bool(settled))
    assert settled == ["one"], "only the second delivery is settled"


async def test_a_call_whose_ack_may_be_lost_is_not_settled(
    start_client: StartClient, engine: Engine, settings: Settings
) -> None:
    """Calls after it are, on the next connection."""
    if not isinstance(engine, RabbitEngine):
        pytest.skip("only RabbitMQ can lose an ack")
    settled: list[str] = []
    handled: list[str] = []
    goes_on = asyncio.Event()

    async def note(request: MeshRequest) -> None:
        text = request.params["text"]
        handled.append(text)
        request.on_settled.append(lambda: settled.append(text))
        if handled == ["one"]:
            engine.proxy.silent = True
        elif text == "one":
            await goes_on.wait()

    service = Service(f"{settings.app_name}-notes")
    service.add("note", note)
    mesh = await start_client(services=[service])

    async def call(text: str) -> None:
        body = json.dumps({"method": "note", "params": {"text": text}, "service": service.name})
        delivery = Delivery("s", body.encode(), f"c-{text}", "t", "command", "")
        await engine.send_raw_call(service.name, delivery)

    await call("one")
    await until(lambda: handled == ["one"])
    await engine.interrupt()
    await until(lambda: not mesh.status.connected)
    engine.proxy.silent = False
    await engine.resume()
    await until(lambda: handled == ["one", "one"])
    await call("two")
    await until(lambda: bool(settled))
    assert settled == ["two"]
    goes_on.set()
    await until(lambda: settled == ["two", "one"])


async def test_what_waits_for_certainty_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left out is settled by its own expiry."""
    monkeypatch.setattr(settled_deliveries, "_MAX_FUNCTIONS", 3)
    acked = AckedDeliveries()
    settled: list[int] = []
    for number in range(9):
        acked.add(Delivery("a", b"", "c"))
        acked.add(Delivery("a", b"", "c", on_settled=[partial(settled.append, number)]))
    await acked.command_replied()
    await acked.command_replied()
    assert settled == [0, 1, 2]
