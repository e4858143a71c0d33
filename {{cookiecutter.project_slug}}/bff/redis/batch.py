"""Commands through redis-py's pipelines: for Redis Cluster and for the in-memory Redis."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any, Final

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException
from redis.exceptions import TimeoutError as RedisTimeoutError

from bff.redis.client import UNAVAILABLE, RedisClient
from bff.redis.executor import OnReply, PendingCommand, encode, fail_all

_UNREACHABLE: Final = (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError)
_MAX_BATCH: Final = 500
_MAX_IN_FLIGHT: Final = 16
"""Round trips at the same time. More are not faster and need as many connections."""
_MIN_REFRESH_SECONDS: Final = 1.0


class BatchExecutor:
    """Sends the waiting commands in batches, one pipeline for each cluster node.

    While the maximum number of round trips is in flight, commands wait and form the next batch,
    so that a burst needs no more connections.
    """

    def __init__(self, redis: RedisClient, on_reply: OnReply) -> None:
        self._redis = redis
        self._on_reply = on_reply
        self._waiting: deque[PendingCommand] = deque()
        self._round_trips: set[asyncio.Task[None]] = set()
        self._replied = 0
        """How many round trips have succeeded."""
        self._refreshed_at = 0.0
        """When the slot map of the cluster was last read, in seconds of the event loop's clock."""
        self._is_closed = False

    def send(self, command: PendingCommand) -> None:
        if encode(command) is None:
            return
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        self._waiting.append(command)

    async def close(self) -> None:
        self._is_closed = True
        for task in tuple(self._round_trips):
            task.cancel()

    def _flush(self) -> None:
        if self._is_closed:
            self._fail_waiting(RedisConnectionError("closed"))
        while self._waiting and len(self._round_trips) < _MAX_IN_FLIGHT:
            size = min(len(self._waiting), _MAX_BATCH)
            batch = [self._waiting.popleft() for _ in range(size)]
            task = asyncio.create_task(self._execute(batch))
            self._round_trips.add(task)
            task.add_done_callback(partial(self._on_round_trip, batch))

    def _on_round_trip(self, batch: list[PendingCommand], task: asyncio.Task[None]) -> None:
        self._round_trips.discard(task)
        if task.cancelled():  # by `close`, perhaps before it began
            fail_all(batch, RedisConnectionError("closed"))
        self._flush()

    async def _execute(self, batch: list[PendingCommand]) -> None:
        replied = self._replied
        try:
            if isinstance(self._redis, RedisCluster):
                await self._execute_by_node(self._redis, batch)
            else:
                await self._execute_pipeline(batch)
        except Exception as error:
            error = _as_redis_error(error)
            fail_all(batch, error)
            if isinstance(error, _UNREACHABLE) and replied == self._replied:
                # No other round trip has succeeded meanwhile: waiting commands would time out too.
                self._fail_waiting(error)

    def _fail_waiting(self, error: Exception) -> None:
        fail_all(self._waiting, error)
        self._waiting.clear()

    async def _execute_by_node(self, cluster: RedisCluster, batch: list[PendingCommand]) -> None:
        await cluster.initialize()
        parts: dict[ClusterNode, list[PendingCommand]] = {}
        uncovered: Exception | None = None
        for command in batch:
            try:
                node = cluster.get_node_from_key(_key(command))
            except RedisClusterException as no_node:
                uncovered = no_node
                command.fail(_as_redis_error(no_node))
                continue
            assert node is not None  # noqa: S101
            parts.setdefault(node, []).append(command)
        errors = await asyncio.gather(
            *(self._execute_on_node(cluster, node, part) for node, part in parts.items())
        )
        if uncovered is not None:
            await self._refresh_slots(cluster, None)
        for error in filter(None, errors):
            raise error

    async def _execute_on_node(
        self, cluster: RedisCluster, node: ClusterNode, batch: list[PendingCommand]
    ) -> Exception | None:
        """Execute one node's part of a batch; an error is returned, so that other parts go on."""
        try:
            await self._execute_pipeline(batch)
        except Exception as error:
            fail_all(batch, _as_redis_error(error))
            await node.disconnect_free_connections()
            await self._refresh_slots(cluster, node.name)
            return error
        return None

    async def _refresh_slots(self, cluster: RedisCluster, failed: str | None) -> None:
        """Read the slot map again: a node has failed, or a slot has none. redis-py does this after
        a failed command, but not after a failed pipeline."""
        now = asyncio.get_running_loop().time()
        if now - self._refreshed_at > _MIN_REFRESH_SECONDS:
            self._refreshed_at = now
            with suppress(*UNAVAILABLE):
                await cluster.nodes_manager.initialize(last_failed_node_name=failed)

    async def _execute_pipeline(self, batch: list[PendingCommand]) -> None:
        redis: Any = self._redis
        async with redis.pipeline(transaction=False) as pipeline:
            for command in batch:
                pipeline.execute_command(*command.args)
            replies = await pipeline.execute(raise_on_error=False)
        self._replied += 1
        for command, reply in zip(batch, replies, strict=True):
            self._on_reply(command, reply)


def _as_redis_error(error: Exception) -> Exception:
    """A `RedisError` in place of errors of the cluster client that are none: a slot has no node."""
    return RedisConnectionError(str(error)) if isinstance(error, RedisClusterException) else error


def _key(command: PendingCommand) -> str:
    """The argument that chooses the node. A command without arguments may go to any."""
    args = command.args
    return str(args[3] if args[0] in ("EVALSHA", "EVAL") else args[1] if len(args) > 1 else "")
