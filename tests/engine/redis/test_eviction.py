"""Doctor and readiness say when Redis may delete keys, and why Redis refuses connections."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from bff.doctor import _eviction
from bff.redis.client import UNAVAILABLE, create_client, why
from bff.redis.eviction import EvictionCheck, eviction_warning
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings
from bff.telemetry.metrics import Metrics
from bff.testing import RunningBff, until
from prometheus_client import Histogram, generate_latest
from redis.exceptions import NoPermissionError, ResponseError

from tests import servers

WRONG = "maxmemory-policy is allkeys-lru: set it to noeviction"
UNKNOWN = "maxmemory-policy is unknown: allow INFO"


class FakeClient:
    """Answers `INFO` and `CONFIG GET`, or raises what it is given instead of an answer."""

    def __init__(self, info: Any, config: Any) -> None:
        self._info, self._config = info, config

    async def info(self, section: str) -> Any:
        assert section == "memory"
        return reply(self._info)

    async def config_get(self, name: str) -> Any:
        return reply(self._config)


def reply(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return value


DENIED = NoPermissionError("this user has no permissions to run the command")
GOOD, BAD = {"maxmemory_policy": "noeviction"}, {"maxmemory_policy": "allkeys-lru"}


@pytest.mark.parametrize(
    ("info", "config", "expected"),
    [
        (GOOD, DENIED, ""),
        (BAD, DENIED, WRONG),
        (DENIED, {"maxmemory-policy": "noeviction"}, ""),
        (DENIED, {"maxmemory-policy": "allkeys-lru"}, WRONG),
        ({"used_memory": 1}, {"maxmemory-policy": "allkeys-lru"}, WRONG),
        (DENIED, ResponseError("unknown command 'CONFIG'"), UNKNOWN),
        ({}, {}, UNKNOWN),
        ({"10.0.0.1:6379": GOOD, "10.0.0.2:6379": BAD}, DENIED, WRONG),
        ({"10.0.0.1:6379": GOOD, "10.0.0.2:6379": GOOD}, DENIED, ""),
    ],
)
async def test_the_policy_is_found_by_info_or_by_config(
    info: Any, config: Any, expected: str
) -> None:
    client: Any = FakeClient(info, config)
    warning = await eviction_warning(client)
    assert warning.startswith(expected)
    assert bool(warning) is bool(expected)


async def test_it_is_asked_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    client: Any = FakeClient(BAD, DENIED)
    check = EvictionCheck(client, "redis://host")
    assert await check.warning()
    client._info = GOOD
    now = 59
    assert await check.warning()
    now = 60
    assert not await check.warning()


async def test_the_embedded_redis_is_not_asked() -> None:
    client: Any = FakeClient(BAD, DENIED)
    assert not await EvictionCheck(client, "memory://").warning()


async def test_readiness_warns_but_does_not_fail(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance that is not ready would get no traffic, although it works."""

    async def warning() -> str:
        return WRONG

    monkeypatch.setattr(bff.engine.eviction, "warning", warning)
    async with bff.http() as http:
        ready = await http.get("/health/ready")
    assert ready.status_code == 200
    assert ready.json()["checks"]["redis"] == {"ok": True, "reason": WRONG}


class TestRealRedis:
    @pytest.fixture
    def url(self) -> Iterator[str]:
        if "TEST_REDIS_URL" not in os.environ:
            pytest.skip("TEST_REDIS_URL names no real Redis server")
        server = servers.private_redis()
        yield server.url
        server.remove()

    @asynccontextmanager
    async def configured(self, url: str, **values: Any) -> AsyncIterator[None]:
        client = create_client(url)
        for name, value in values.items():
            await client.config_set(name.replace("_", "-"), value)
        yield
        await client.aclose()

    async def test_doctor_names_the_policy(self, url: str, settings: Settings) -> None:
        settings = settings.model_copy(update={"redis_url": url})
        async with self.configured(url, maxmemory_policy="allkeys-lru"):
            (finding,) = await _eviction(settings)
            assert not finding.ok
            assert WRONG in finding.text
        async with self.configured(url, maxmemory_policy="noeviction"):
            (finding,) = await _eviction(settings)
            assert finding.ok
            assert not finding.warning

    async def test_maxclients_is_named_as_the_reason(self, url: str) -> None:
        """Redis closes the connection at once: where TCP resets it, the next attempt says why."""
        async with self.configured(url, maxclients=1):
            client = create_client(url)
            pipeline = AutoPipeline(client)

            async def is_named(send: Callable[[], Awaitable[Any]]) -> bool:
                with pytest.raises(UNAVAILABLE) as refused:
                    await send()
                return "max number of clients" in why(refused.value)

            await until(lambda: is_named(client.ping))
            await until(lambda: is_named(lambda: pipeline.submit("GET", "x")))
            await pipeline.close()
            await client.aclose()


def test_metrics_have_no_created_series() -> None:
    metrics = Metrics()
    metrics.connections_opened.inc()
    Histogram("own", "of the app", registry=metrics.registry).observe(1)
    text = generate_latest(metrics.registry).decode()
    assert "bff_connections_opened_total 1.0" in text
    assert "_created" not in text
