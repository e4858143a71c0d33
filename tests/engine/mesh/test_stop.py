"""The mesh stops in time, whatever its handlers do."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import Any

import pytest
from bff import tasks
from bff.errors import Code, Outcome, Problem
from bff.mesh import memory
from bff.mesh.events import EventHandler
from bff.mesh.rabbitmq import connection
from bff.mesh.service import Service
from bff.settings import Settings
from bff.testing import until

from tests.engine.mesh.conftest import StartClient
from tests.engine.mesh.engines import Engine, MemoryEngine


@pytest.mark.parametrize("kind", ["event handler", "served method"])
async def test_a_handler_that_resists_its_cancellation_does_not_hold_up_the_stop(
    start_client: StartClient,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    begun, released, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    cancelled = 0

    async def resist(_: object) -> None:
        nonlocal cancelled
        begun.set()
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                cancelled += 1
        ended.set()

    topic, service = f"{settings.app_name}.a", Service(f"{settings.app_name}-service")
    service.add("resist", resist)
    mesh = await start_client(EventHandler("first", topic, resist), services=[service])
    if kind == "event handler":
        await mesh.publish(topic, 1)
    else:
        await mesh.command(service.name, "resist", {})
    await begun.wait()
    monkeypatch.setattr(connection, "BROKER_SECONDS", 1.5)
    monkeypatch.setattr(tasks, "_STOP_SECONDS", 0.3)
    monkeypatch.setattr(tasks, "_CANCEL_AGAIN_SECONDS", 0.1)
    try:
        async with asyncio.timeout(10):
            await mesh.stop()
        assert not ended.is_set()
        assert cancelled >= 1
        if kind == "event handler" or settings.amqp_url == "memory://":
            (line,) = [one.message for one in caplog.records if one.levelno == logging.CRITICAL]
            assert line.endswith("task did not stop in time")
    finally:
        monkeypatch.undo()
        released.set()
        await ended.wait()


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def notebook(settings: Settings, notes: list[str]) -> Service:
    """A service that takes notes, and waits when it is told to."""
    service = Service(f"{settings.app_name}-notebook")

    @service.method("note")
    async def note(text: str) -> str:
        notes.append(text)
        return text

    @service.method("wait")
    async def wait() -> None:
        await asyncio.Event().wait()

    return service


async def test_a_service_that_has_stopped_gets_no_calls(
    start_client: StartClient, engine: Engine, notebook: Service
) -> None:
    if not isinstance(engine, MemoryEngine):
        pytest.skip("RabbitMQ keeps the calls of a stopped service in its queue")
    server, caller = await start_client(services=[notebook]), await start_client()
    assert await caller.request(notebook.name, "note", {"text": "one"}) == "one"
    await server.stop()
    with pytest.raises(Problem) as caught:
        await caller.request(notebook.name, "note", {"text": "two"})
    assert caught.value.code is Code.SERVICE_UNAVAILABLE
    assert caught.value.outcome is Outcome.NOT_SENT


async def test_one_of_two_instances_that_stops_leaves_the_other(
    start_client: StartClient, engine: Engine, notebook: Service
) -> None:
    first, _ = [await start_client(services=[notebook]) for _ in range(2)]
    caller = await start_client()
    await first.stop()
    for number in range(4):
        assert await caller.request(notebook.name, "note", {"text": f"{number}"}) == f"{number}"


async def test_a_call_that_waits_when_its_service_stops_is_not_carried_out(
    start_client: StartClient,
    engine: Engine,
    notebook: Service,
    notes: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not isinstance(engine, MemoryEngine):
        pytest.skip("RabbitMQ keeps the calls of a stopped service in its queue")
    monkeypatch.setattr(memory, "CONCURRENT_CALLS", 1)
    server, caller = await start_client(services=[notebook]), await start_client()
    await caller.command(notebook.name, "wait", {})
    late = asyncio.create_task(caller.request(notebook.name, "note", {"text": "late"}, timeout=0.5))
    await asyncio.sleep(0)
    await server.stop()
    with pytest.raises(Problem) as caught:
        await late
    assert caught.value.code is Code.TIMEOUT
    assert notes == []


async def test_a_service_in_a_process_of_its_own_ends_with_sigterm(
    start_client: StartClient, notebook: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers: dict[Any, Any] = {}
    monkeypatch.setattr(asyncio.get_running_loop(), "add_signal_handler", handlers.__setitem__)
    server, caller = await start_client(), await start_client()
    await server.stop()
    serving = asyncio.create_task(server.serve(notebook))
    await until(lambda: server.status.connected)
    assert await caller.request(notebook.name, "note", {"text": "a"}, timeout=15) == "a"
    handlers[signal.SIGTERM]()
    async with asyncio.timeout(15):
        await serving
    assert not server.status.connected


async def test_a_service_whose_client_does_not_start_is_stopped(
    start_client: StartClient, notebook: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await start_client()
    await server.stop()
    start = server._transport.start

    async def fail(*arguments: Any) -> None:
        await start(*arguments)
        raise ValueError("no start")

    monkeypatch.setattr(server._transport, "start", fail)
    with pytest.raises(ValueError, match="no start"):
        await server.serve(notebook)
    assert not server.status.connected
