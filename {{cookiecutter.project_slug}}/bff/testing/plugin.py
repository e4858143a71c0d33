"""Pytest fixtures. Redis and RabbitMQ are embedded, or real (TEST_REDIS_URL, TEST_AMQP_URL)."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

from bff.factory import FACTORY, SETTINGS, load
from bff.settings import Settings
from bff.testing.running import RunningBff, run

SECRET = "a-secret-for-tests-only-0123456789abcdef"

CreateApp = Callable[[Settings], FastAPI]


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run tests on uvicorn's event loop (uvloop if it is installed)."""
    return {"loop": uvicorn.Config("").get_loop_factory() or asyncio.new_event_loop}


@pytest.fixture
def settings_class() -> type[Settings]:
    """The app's settings class."""
    found: type[Settings] = load(SETTINGS)
    return found


@pytest.fixture
def create_app() -> CreateApp:
    """The app's factory. Override this fixture to test another app."""
    factory: CreateApp = load(FACTORY)
    return factory


@pytest.fixture
def redis_url() -> str:
    """`TEST_REDIS_URL`, or `memory://`."""
    return os.environ.get("TEST_REDIS_URL", "memory://")


@pytest.fixture
def amqp_url() -> str:
    """`TEST_AMQP_URL`, or `memory://`."""
    return os.environ.get("TEST_AMQP_URL", "memory://")


@pytest.fixture
def settings(
    settings_class: type[Settings], redis_url: str, amqp_url: str, tmp_path: Path
) -> Settings:
    """Settings with a random `app_name`, so that tests on one server do not share data."""
    return settings_class(
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
async def bff(create_app: CreateApp, settings: Settings) -> AsyncIterator[RunningBff]:
    """The app, served on a free port."""
    async with run(create_app(settings)) as running:
        yield running
