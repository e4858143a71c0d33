"""Engines are embedded unless TEST_REDIS_URL and TEST_AMQP_URL name real servers."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvicorn

from app.settings import Settings
from app.telemetry.metrics import Metrics
from tests.running import SECRET, Bff, run


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests run on the event loop that the server runs on."""
    return {"loop": uvicorn.Config("").get_loop_factory() or asyncio.new_event_loop}


@pytest.fixture
def redis_url() -> str:
    return os.environ.get("TEST_REDIS_URL", "memory://")


@pytest.fixture
def amqp_url() -> str:
    return os.environ.get("TEST_AMQP_URL", "memory://")


@pytest.fixture
def settings(redis_url: str, amqp_url: str, tmp_path: Path) -> Settings:
    """Settings under a name of their own: nothing is shared with another test."""
    return Settings(
        _env_file=None,
        app_name=f"test-{secrets.token_hex(4)}",
        environment="test",
        redis_url=redis_url,
        amqp_url=amqp_url,
        database_url=f"sqlite+aiosqlite:///{tmp_path}/test.sqlite3",
        jwt_secret=SECRET,
        allowed_origins="http://localhost:8000",
    )


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def ws() -> str | None:
    """uvicorn's WebSocket protocol; None is ours."""
    return None


@pytest.fixture
async def bff(settings: Settings, ws: str | None) -> AsyncIterator[Bff]:
    """The whole BFF on a real server, with the example service `orders` on its mesh."""
    async with run(settings, ws=ws) as running:
        yield running
