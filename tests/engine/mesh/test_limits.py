"""Retries, handlers and served methods end; one poison message costs only itself."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import re
import secrets
from typing import Any

import pytest
from bff.errors import Code, Problem
from bff.mesh import receiver
from bff.mesh.client import MeshClient
from bff.mesh.events import EventHandler, MeshEvent, RetryEvent
from bff.mesh.messages import Delivery
from bff.mesh.rabbitmq import event_queue
from bff.mesh.rabbitmq.service_queue import CONCURRENT_CALLS, MAX_REDELIVERIES
from bff.mesh.service import Service
from bff.settings import Settings
from bff.telemetry.metrics import Metrics
from bff.testing import until

from tests.engine.mesh.conftest import StartClient
from tests.engine.mesh.engines import Engine, RabbitEngine, raw


@pytest.mark.parametrize(
    "limits",
    [
        {"max_event_retries": 2},
        {"event_retry_seconds": 0.3},
    ],
    ids=str,
)
async def test_an_event_is_not_retried_without_end(
    start_client: StartClient, engine: Engine, limits: dict[str, float]
) -> None:
    tried: list[Any] = []
    handled: list[Any] = []

    async def handle(event: MeshEvent) -> None:
        tried.append(event.payload)
        if event.payload == "stuck":
            raise RetryEvent("the service is away")
        handled.append(event.payload)

    topic = f"t{id(engine)}.a"
    await start_client(EventHandler("first", topic, handle), **limits)
    await engine.send_raw_event(topic, raw(topic, "stuck"))
    await engine.send_raw_event(topic, raw(topic, "next"))
    await until(lambda: handled == ["next"])
    assert tried.count("stuck") == 3 or "event_retry_seconds" in limits
    assert tried.count("stuck") > 1
    letters: list[bytes] = []

    async def arrived() -> bool:
        letters.extend(await engine.dead_letters())
        return bool(letters)

    await until(arrived)
    assert letters == [raw(topic, "stuck")]


async def test_an_event_waits_as_long_as_what_every_event_needs_is_away(
    start_client: StartClient, engine: Engine
) -> None:
    """Redis, for example: to give up would move every event to the dead letters."""
    tried: list[Any] = []

    async def handle(event: MeshEvent) -> None:
        tried.append(event.payload)
        if len(tried) < 6:
            raise RetryEvent("Redis is away", limited=False)

    topic = f"t{id(engine)}.a"
    await start_client(
        EventHandler("first", topic, handle), max_event_retries=2, event_retry_seconds=0.3
    )
    await engine.send_raw_event(topic, raw(topic, "patient"))
    await until(lambda: len(tried) == 6)
    assert await engine.dead_letters() == []


async def test_an_event_handler_that_is_stuck_is_reported(
    start_client: StartClient, engine: Engine, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = True

    async def handle(event: MeshEvent) -> None:
        if away:
            raise RetryEvent("the service is away")

    topic = f"t{id(engine)}.a"
    mesh = await start_client(EventHandler("first", topic, handle))
    assert mesh.stuck == ""
    await mesh.publish(topic, 1)
    labels = {"handler": "first"}

    def seconds() -> float:
        return metrics.registry.get_sample_value("bff_mesh_event_retry_seconds", labels) or 0

    await until(lambda: 0 < seconds() < 30)
    assert mesh.stuck == "", "not for so short a time"
    monkeypatch.setattr(receiver, "STUCK_SECONDS", 0)
    stuck = r"event handler 'first' has been retrying for [0-9]{1,2} s: the service is away"
    assert re.fullmatch(stuck, mesh.stuck)
    assert mesh.status.connected, "calls still work"
    away = False
    await until(lambda: mesh.stuck == "" and seconds() == 0)


@pytest.mark.parametrize(("pause", "fewest", "most"), [(0.02, 2, 6), (1, 1, 1)])
async def test_the_time_for_retries_begins_with_the_first_one_and_includes_the_pauses(
    mesh: MeshClient, monkeypatch: pytest.MonkeyPatch, pause: float, fewest: int, most: int
) -> None:
    monkeypatch.setattr(receiver, "backoff_delays", lambda *_: itertools.repeat(pause))
    monkeypatch.setattr(mesh._receiver, "_limits", receiver.RetryLimits(10_000, 0.1))
    tries = 0

    async def handle(_: MeshEvent) -> None:
        nonlocal tries
        tries += 1
        raise RetryEvent("not now")

    async with asyncio.timeout(10):
        delivery = Delivery("t", raw("t", 1), "c")
        assert not await mesh._receiver.on_event(EventHandler("first", "t", handle), delivery)
    assert fewest <= tries <= most


async def test_the_time_of_an_outage_does_not_count_as_time_of_retries(
    mesh: MeshClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, skipped = asyncio.get_running_loop(), 0.0
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + skipped)
    monkeypatch.setattr(receiver, "backoff_delays", lambda *_: itertools.repeat(0.01))
    monkeypatch.setattr(mesh._receiver, "_limits", receiver.RetryLimits(10, 900))
    tries = 0

    async def handle(_: MeshEvent) -> None:
        nonlocal tries, skipped
        tries += 1
        if tries in (2, 4):
            skipped += 3600
            raise RetryEvent("no Redis", limited=False)
        if tries < 6:
            raise RetryEvent("not now")

    delivery = Delivery("t", raw("t", 1), "c")
    assert await mesh._receiver.on_event(EventHandler("first", "t", handle), delivery)
    assert tries == 6


@pytest.mark.parametrize(("deliveries", "tried"), [(9, True), (10, False)])
async def test_an_event_that_was_delivered_too_often_is_not_handled(
    mesh: MeshClient, metrics: Metrics, deliveries: int, tried: bool
) -> None:
    """Its handler may end the process each time."""
    seen: list[MeshEvent] = []

    async def handle(event: MeshEvent) -> None:
        seen.append(event)

    delivery = Delivery("t", raw("t", 1), "c", deliveries=deliveries)
    handler = EventHandler("first", "t", handle)
    assert await mesh._receiver.on_event(handler, delivery) is tried
    assert bool(seen) is tried
    labels = {"handler": "first", "result": "handled" if tried else "dead_lettered"}
    assert metrics.registry.get_sample_value("bff_mesh_events_total", labels) == 1


async def test_an_event_handler_that_hangs_is_ended(
    mesh: MeshClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiver, "HANDLER_SECONDS", 0.01)

    async def hang(_: MeshEvent) -> None:
        await asyncio.Event().wait()

    async with asyncio.timeout(10):
        delivery = Delivery("t", raw("t", 1), "c")
        assert not await mesh._receiver.on_event(EventHandler("first", "t", hang), delivery)


async def test_a_served_method_has_a_time_limit_and_frees_its_slot(
    start_client: StartClient, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(f"service-{secrets.token_hex(4)}")
    cancelled: list[int] = []

    @service.method("hang")
    async def hang() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(1)

    @service.method("fine")
    async def fine() -> str:
        return "fine"

    await start_client(services=[service], max_request_timeout_seconds=0.5)
    mesh = await start_client()
    hanging = [
        asyncio.create_task(mesh.request(service.name, "hang", {}, timeout=20))
        for _ in range(CONCURRENT_CALLS)
    ]
    assert await mesh.request(service.name, "fine", {}, timeout=20) == "fine"
    for problem in await asyncio.gather(*hanging, return_exceptions=True):
        assert isinstance(problem, Problem)
        assert (problem.code, problem.retryable) == (Code.TIMEOUT, False)
    assert len(cancelled) == CONCURRENT_CALLS
    (record, *_) = (one for one in caplog.records if one.levelno >= logging.ERROR)
    assert record.message == "service method timed out"


async def test_a_timeout_of_the_method_itself_is_an_internal_error() -> None:
    service = Service("s")

    @service.method("m")
    async def method() -> None:
        raise TimeoutError

    body = json.dumps({"method": "m"}).encode()
    reply = await service.answer(Delivery("s", body, "c", kind="request", reply_to="r"))
    assert reply is not None
    assert json.loads(reply.body)["error"]["error"] == "NuropbException"


async def test_an_event_that_ends_the_process_costs_only_itself(
    start_client: StartClient,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The end of the connection stands for the end of the process."""
    if not isinstance(engine, RabbitEngine):
        pytest.skip("the in-process mesh ends with its process")
    monkeypatch.setattr(receiver, "MAX_DELIVERIES", 3)
    broker, tried, handled = engine, list[Any](), list[Any]()
    restarts: list[asyncio.Task[None]] = []

    async def handle(event: MeshEvent) -> None:
        tried.append(event.payload)
        if event.payload == "poison":
            restarts.append(asyncio.create_task(_restart(broker)))
            await asyncio.Event().wait()
        handled.append(event.payload)

    topic = f"t{id(engine)}.a"
    await start_client(EventHandler("first", topic, handle))
    for payload in ("poison", *range(40)):
        await engine.send_raw_event(topic, raw(topic, payload))
    await until(lambda: len(handled) >= 40, 30)
    assert handled == list(range(40))
    assert tried.count("poison") == 3
    letters: list[bytes] = []

    async def arrived() -> bool:
        letters.extend(await engine.dead_letters())
        return bool(letters)

    await until(arrived)
    assert letters == [raw(topic, "poison")]


@pytest.mark.parametrize("begins", ["before the start", "while idle", "during an event"])
async def test_lost_connections_count_no_delivery_while_no_event_can_be_handled(
    start_client: StartClient,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    begins: str,
) -> None:
    """For example while Redis is unavailable. Else the event would become a dead letter."""
    if not isinstance(engine, RabbitEngine):
        pytest.skip("the in-process mesh counts no deliveries")
    monkeypatch.setattr(receiver, "MAX_DELIVERIES", 2 if begins == "during an event" else 1)
    monkeypatch.setattr(event_queue, "UNAVAILABLE_SECONDS", 0.05)
    fails, unavailable = True, "no Redis" if begins == "before the start" else ""
    questions, tries, handled = 0, 0, list[Any]()

    def why_unavailable() -> str:
        nonlocal questions
        questions += 1
        return unavailable

    async def handle(event: MeshEvent) -> None:
        nonlocal tries
        tries += 1
        if fails:
            raise RetryEvent("no Redis", limited=False)
        handled.append(event.payload)

    topic = f"t{id(engine)}.a"
    mesh = await start_client(EventHandler("first", topic, handle, why_unavailable))
    if begins == "while idle":
        await until(lambda: not mesh.consumers_down)
        unavailable = "no Redis"
        await until(lambda: bool(mesh.consumers_down))
    await engine.send_raw_event(topic, raw(topic, 1))
    if begins == "during an event":
        await until(lambda: tries > 0)
        unavailable = "no Redis"
    for _ in range(4):
        await _restart(engine)
        await until(lambda: "no Redis" in mesh.consumers_down.values())
    questions, tries_before = 0, tries
    await until(lambda: questions > 3)
    fails, unavailable = False, ""
    await until(lambda: bool(handled))
    assert handled == [1]
    assert tries == tries_before + 1
    await until(lambda: not mesh.consumers_down)
    assert not await engine.dead_letters()
    words = "queue consumer stopped, restarting"
    reasons = [one.__dict__["reason"] for one in caplog.records if one.message == words]
    assert reasons.count("no Redis") == (begins == "while idle"), "it waits without restarting"


async def test_a_call_that_ends_the_process_costs_only_itself(
    start_client: StartClient, engine: Engine, settings: Settings
) -> None:
    if not isinstance(engine, RabbitEngine):
        pytest.skip("the in-process mesh ends with its process")
    broker, tried, handled = engine, list[str](), set[int]()
    restarts: list[asyncio.Task[None]] = []
    service = Service(f"service-{secrets.token_hex(4)}")

    @service.method("poison")
    async def poison() -> None:
        tried.append("poison")
        restarts.append(asyncio.create_task(_restart(broker)))
        await asyncio.Event().wait()

    @service.method("work")
    async def work(number: int) -> None:
        await asyncio.sleep(0.05)
        handled.add(number)

    letters = await broker.channel.queue_declare(exclusive=True)
    assert letters.queue is not None
    dead: list[bytes] = []

    async def on_dead(message: Any) -> None:
        if service.name.encode() in message.body:
            dead.append(message.body)

    await broker.channel.exchange_declare(
        settings.dead_letter_exchange, exchange_type="fanout", durable=True
    )
    await broker.channel.queue_bind(letters.queue, settings.dead_letter_exchange)
    await broker.channel.basic_consume(letters.queue, on_dead, no_ack=True)
    await start_client(services=[service])

    def call(method: str, **params: Any) -> Delivery:
        body = json.dumps({"method": method, "params": params, "service": service.name})
        return Delivery("s", body.encode(), secrets.token_hex(4), "t", "command", "")

    for number in range(10):
        await broker.send_raw_call(service.name, call("work", number=number))
    await broker.send_raw_call(service.name, call("poison"))
    for number in range(10, 20):
        await broker.send_raw_call(service.name, call("work", number=number))
    await until(lambda: len(dead) > 0, 30)
    await until(lambda: handled == set(range(20)), 30)
    assert [json.loads(body)["method"] for body in dead] == ["poison"]
    assert len(tried) == 1 + 1 + MAX_REDELIVERIES


async def _restart(engine: RabbitEngine) -> None:
    await engine.interrupt()
    await engine.resume()
