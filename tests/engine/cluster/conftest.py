"""Instances that share one Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from bff.cluster import member
from bff.cluster.subscriptions import positions, recovered
from bff.connections.connection import Connection, new_connection_id
from bff.connections.messages import Hello
from bff.connections.positions import parse_cursor
from bff.errors import Problem
from bff.redis.client import RedisClient, connect
from bff.settings import Settings
from bff.telemetry.metrics import Metrics
from redis.asyncio import RedisCluster

from tests.engine.doubles import RecordingTransport


class ClusterMember(member.ClusterMember):
    """The cluster room of one BFF instance."""

    def __init__(self, redis: RedisClient, settings: Settings) -> None:
        self.metrics = Metrics()
        super().__init__(redis, settings, self.metrics, presence_is_watched=True)

    async def join(
        self, user_id: str, since: str = "", transport: RecordingTransport | None = None
    ) -> Connection:
        """A connection of that user, open on this instance and brought up to the live flow."""
        transport = transport or RecordingTransport()
        connection = Connection(
            new_connection_id(self.id), user_id, transport, max_queue_bytes=1 << 20
        )
        self.registry.register(connection)
        try:
            joined = (await self.subscriptions.enter(connection, parse_cursor(since))).joined
        except Problem:
            self.registry.unregister(connection)
            raise
        hello = Hello(connection.id, user_id, user_id, 0, 25, positions(joined), recovered(joined))
        connection.open(hello)
        await self.subscriptions.catch_up(connection, joined)
        return connection

    def metric(self, name: str) -> float:
        """What a metric has counted so far."""
        return self.metrics.registry.get_sample_value(name) or 0.0

    async def leave(self, connection: Connection) -> None:
        self.subscriptions.leave(connection)
        await self.index.remove_left()


def everywhere(redis: RedisClient) -> dict[str, Any]:
    """Options that send a command to every node of a cluster."""
    is_cluster = isinstance(redis, RedisCluster)
    return {"target_nodes": RedisCluster.ALL_NODES} if is_cluster else {}


StartInstance = Callable[..., Coroutine[Any, Any, ClusterMember]]


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[RedisClient]:
    client = connect(settings.redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def start(redis: RedisClient, settings: Settings) -> AsyncIterator[StartInstance]:
    """Starts instances that listen, with settings changed, until the end of the test."""
    async with AsyncExitStack() as stack:

        async def start_one(**changed: Any) -> ClusterMember:
            instance = ClusterMember(redis, settings.model_copy(update=changed))
            return await stack.enter_async_context(listening(instance))

        yield start_one


@asynccontextmanager
async def listening(instance: ClusterMember) -> AsyncIterator[ClusterMember]:
    await instance.index.renew()
    works = (instance.listener.run(), instance.hub.run(), instance.presence.run())
    tasks = [asyncio.create_task(work) for work in works]
    try:
        async with asyncio.timeout(10):
            await instance.listener.listening()
        yield instance
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
