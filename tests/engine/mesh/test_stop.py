"""The mesh stops in time, whatever its handlers do."""

from __future__ import annotations

import asyncio
import logging

import pytest
from bff import tasks
from bff.mesh.events import EventHandler
from bff.mesh.rabbitmq import connection
from bff.mesh.service import Service
from bff.settings import Settings

from tests.engine.mesh.conftest import StartClient


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
