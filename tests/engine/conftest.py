"""The engine's tests use the test kit, with an app and settings of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from bff.redis.client import RedisClient, create_client
from bff.settings import Settings
from bff.telemetry.metrics import Metrics
from bff.testing import RunningBff, run
from bff.testing.plugin import (  # noqa: F401
    amqp_url,
    pytest_asyncio_loop_factories,
    redis_url,
    settings,
)

from tests.engine.echo import create_app


@pytest.fixture
def settings_class() -> type[Settings]:
    return Settings


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[RedisClient]:
    client = create_client(settings.redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def ws() -> str | None:
    """uvicorn's WebSocket protocol; None is ours."""
    return None


@pytest.fixture
async def bff(settings: Settings, ws: str | None) -> AsyncIterator[RunningBff]:
    """The engine with the feature `echo`, on a real server."""
    async with run(create_app(settings), ws=ws) as running:
        yield running
