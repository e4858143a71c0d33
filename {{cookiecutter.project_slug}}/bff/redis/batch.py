"""A carrier by redis-py's own pipelines: for a cluster, with one for each node, and in memory."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any, Final

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException
from redis.exceptions import TimeoutError as RedisTimeoutError

from bff.redis.client import UNAVAILABLE, RedisClient
from bff.redis.executor import PendingCommand, Settle, fail_all, packed

_UNREACHABLE: Final = (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError)
_PIPELINE: Final = 500
_UNDER_WAY: Final = 16
"""Round trips at the same time: more would make nothing faster, and need as many connections."""
_LOOK_SECONDS: Final = 1.0


class BatchExecutor:
    """No burst needs more connections than there may be round trips: what comes meanwhile leaves
    with the next."""

    def __init__(self, redis: RedisClient, settle: Settle) -> None:
        self._redis = redis
        self._settle = settle
        self._waiting: deque[PendingCommand] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._answered = 0
        """Round trips so far that came back."""
        self._looked_at = 0.0
        """When a cluster was last asked who holds what."""

    def send(self, sent: PendingCommand) -> None:
        if packed(sent) is None:
            return
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._send)
        self._waiting.append(sent)

    async def close(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()

    def _send(self) -> None:
        while self._waiting and len(self._tasks) < _UNDER_WAY:
            size = min(len(self._waiting), _PIPELINE)
            batch = [self._waiting.popleft() for _ in range(size)]
            task = asyncio.create_task(self._execute(batch))
            self._tasks.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._send()

    async def _execute(self, batch: list[PendingCommand]) -> None:
        answered = self._answered
        try:
            if isinstance(self._redis, RedisCluster):
                await self._by_node(self._redis, batch)
            else:
                await self._round_trip(batch)
        except Exception as error:
            fail_all(batch, error)
            if isinstance(error, _UNREACHABLE) and answered == self._answered:
                # Nothing has come back since: whoever waits behind would only wait as long.
                fail_all(self._waiting, error)
                self._waiting.clear()
        except asyncio.CancelledError:
            fail_all(batch, RedisConnectionError("closed"))
            raise

    async def _by_node(self, cluster: RedisCluster, batch: list[PendingCommand]) -> None:
        await cluster.initialize()
        parts: dict[ClusterNode, list[PendingCommand]] = {}
        for one in batch:
            node = cluster.get_node_from_key(_key(one))
            assert node is not None  # noqa: S101
            parts.setdefault(node, []).append(one)
        errors = await asyncio.gather(
            *(self._at_node(cluster, node, part) for node, part in parts.items())
        )
        for error in filter(None, errors):
            raise error

    async def _at_node(
        self, cluster: RedisCluster, node: ClusterNode, batch: list[PendingCommand]
    ) -> Exception | None:
        """One node's part; returns why it failed, which harms no other's."""
        try:
            await self._round_trip(batch)
        except Exception as error:
            fail_all(batch, error)
            await node.disconnect_free_connections()
            await self._look_anew(cluster, node)
            return error
        return None

    async def _look_anew(self, cluster: RedisCluster, failed: ClusterNode) -> None:
        """Ask who holds what: the library does it after a command that failed, not a pipeline."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at > _LOOK_SECONDS:
            self._looked_at = now
            with suppress(*UNAVAILABLE, RedisClusterException):
                await cluster.nodes_manager.initialize(last_failed_node_name=failed.name)

    async def _round_trip(self, batch: list[PendingCommand]) -> None:
        redis: Any = self._redis
        async with redis.pipeline(transaction=False) as pipeline:
            for one in batch:
                pipeline.execute_command(*one.command)
            results = await pipeline.execute(raise_on_error=False)
        self._answered += 1
        for one, result in zip(batch, results, strict=True):
            self._settle(one, result)


def _key(sent: PendingCommand) -> str:
    command = sent.command
    return str(command[3] if command[0] in ("EVALSHA", "EVAL") else command[1])
