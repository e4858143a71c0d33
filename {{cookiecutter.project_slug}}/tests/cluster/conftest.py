"""Instances that share one Redis."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from app.cluster.index import ConnectionIndex
from app.cluster.messenger import Messenger
from app.cluster.redis import RedisClient, SharedPipeline, connect
from app.cluster.relay import Relay
from app.connections.connection import Connection, new_connection_id
from app.connections.messages import Hello
from app.connections.registry import ConnectionRegistry
from app.errors import Problem
from app.settings import Settings
from app.telemetry.metrics import Metrics
from tests.doubles import RecordingTransport


class Instance:
    """The cluster room of one BFF instance."""

    def __init__(self, redis: RedisClient, settings: Settings) -> None:
        self.id = secrets.token_hex(3)
        self.metrics = Metrics()
        self.registry = ConnectionRegistry()
        pipeline = SharedPipeline(redis)
        self.index = ConnectionIndex(
            self.id, redis, pipeline, self.registry, settings, self.metrics
        )
        self.relay = Relay(self.id, redis, self.registry, settings, self.metrics)
        self.messenger = Messenger(pipeline, self.index, settings, self.metrics)

    async def join(self, user_id: str) -> Connection:
        """A connection of that user, open on this instance."""
        connection = Connection(
            new_connection_id(self.id), user_id, RecordingTransport(), max_queue_bytes=1 << 20
        )
        self.registry.register(connection)
        try:
            positions = await self.index.register(connection)
        except Problem:
            self.registry.unregister(connection)
            raise
        connection.open(Hello(connection.id, user_id, user_id, 0, 25, positions))
        return connection

    async def leave(self, connection: Connection) -> None:
        self.registry.unregister(connection)
        self.index.unregister(connection)
        await self.index.remove_left()


StartInstance = Callable[[], Coroutine[Any, Any, Instance]]


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[RedisClient]:
    client = connect(settings.redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def start(redis: RedisClient, settings: Settings) -> AsyncIterator[StartInstance]:
    """Starts instances that listen, until the end of the test."""
    async with AsyncExitStack() as stack:

        async def start_one() -> Instance:
            return await stack.enter_async_context(_listening(Instance(redis, settings)))

        yield start_one


@asynccontextmanager
async def _listening(instance: Instance) -> AsyncIterator[Instance]:
    await instance.index.renew()
    task = asyncio.create_task(instance.relay.run())
    try:
        async with asyncio.timeout(10):
            await instance.relay.listening()
        yield instance
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
