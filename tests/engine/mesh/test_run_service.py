"""A service of the mesh as a program of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator

import pytest
from bff.mesh.connect import run_service
from bff.mesh.service import Publish, Service
from bff.settings import MeshSettings
from bff.telemetry import logs
from bff.testing import until


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> list[MeshSettings]:
    """The settings that logging was configured with."""
    used: list[MeshSettings] = []
    monkeypatch.setattr(logs, "configure", used.append)
    return used


@pytest.fixture
def sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


async def test_it_runs_with_the_settings_of_its_environment_until_sigterm(
    configured: list[MeshSettings], sigterm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMQP_URL", "memory://")
    monkeypatch.setenv("LOG_LEVEL", "ERROR")
    default = signal.getsignal(signal.SIGTERM)
    made: list[Publish] = []

    def make(publish: Publish) -> Service:
        made.append(publish)
        return Service("shop")

    running = asyncio.create_task(run_service(make))
    await until(lambda: signal.getsignal(signal.SIGTERM) is not default)
    await made[0]("shop.opened", {})
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(10):
        await running
    assert [logging.getLevelName(one.log_level) for one in configured] == [logging.ERROR]


async def test_it_runs_with_the_settings_that_it_is_given(
    configured: list[MeshSettings], sigterm: None
) -> None:
    settings = MeshSettings(amqp_url="memory://", app_name="given")
    made = asyncio.Event()

    def make(_: Publish) -> Service:
        made.set()
        return Service("shop")

    running = asyncio.create_task(run_service(make, settings))
    await made.wait()
    assert configured == [settings]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
