"""Fixtures: several instances that share one Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from bff.cluster import member
from bff.connections.connection import Connection, new_connection_id
from bff.connections.messages import Hello
from bff.connections.positions import parse_cursor
from bff.errors import Problem
from bff.redis.client import RedisClient
from bff.settings import Settings
from bff.telemetry.metrics import Metrics
from redis.asyncio import RedisCluster

from tests.engine.doubles import RecordingTransport


class ClusterMember(member.ClusterMember):
    """The cluster package of one BFF instance, with its metrics."""

    def __init__(self, redis: RedisClient, settings: Settings) -> None:
        self.metrics = Metrics()
        super().__init__(redis, settings, self.metrics, presence_is_watched=True)

    async def join(
        self, user_id: str, since: str = "", transport: RecordingTransport | None = None
    ) -> Connection:
        """An open connection of the user on this instance that has caught up."""
        transport = transport or RecordingTransport()
        connection = Connection(
            new_connection_id(self.id), user_id, transport, max_queue_bytes=1 << 20
        )
        self.registry.register(connection)
        try:
            joined, _ = await self.subscriptions.join(connection, parse_cursor(since))
        except Problem:
            self.subscriptions.leave(connection)
            raise
        hello = Hello(
            connection.id, user_id, user_id, 0, 25, joined.positions(), joined.recovered()
        )
        connection.open(hello)
        await self.subscriptions.catch_up(connection, joined)
        return connection

    def metric(self, name: str) -> float:
        """The current value of a metric."""
        return self.metrics.registry.get_sample_value(name) or 0.0

    async def leave(self, connection: Connection) -> None:
        self.subscriptions.leave(connection)
        await self.index.remove_unregistered()


def everywhere(redis: RedisClient) -> dict[str, Any]:
    """Options of redis-py that send a command to every node of a cluster."""
    is_cluster = isinstance(redis, RedisCluster)
    return {"target_nodes": RedisCluster.ALL_NODES} if is_cluster else {}


StartInstance = Callable[..., Coroutine[Any, Any, ClusterMember]]


@pytest.fixture
async def start(redis: RedisClient, settings: Settings) -> AsyncIterator[StartInstance]:
    """Starts instances, with changed settings, that run until the end of the test."""
    async with AsyncExitStack() as stack:

        async def start_one(**changed: Any) -> ClusterMember:
            instance = ClusterMember(redis, settings.model_copy(update=changed))
            return await stack.enter_async_context(running(instance))

        yield start_one


@asynccontextmanager
async def running(instance: ClusterMember) -> AsyncIterator[ClusterMember]:
    await instance.index.renew()
    loops = (
        instance.pubsub_listener.run(),
        instance.stream_hub.run(),
        instance.presence.run(),
        instance.revocations.run(),
    )
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        async with asyncio.timeout(10):
            await instance.pubsub_listener.wait_until_subscribed()
        yield instance
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
