"""Many commands in one round trip, whoever sends them; and the scripts that run in Redis."""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisClusterException, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.typing import EncodableT

from app.cluster.exchange import Command, exchange
from app.cluster.redis import UNAVAILABLE, RedisClient

_Submitted = tuple[Command, asyncio.Future[Any]]

_UNREACHABLE: Final = (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError)
_FOLDER = Path(__file__).parent
_PIPELINE = 500
_UNDER_WAY = 16
"""Round trips at the same time: more would make nothing faster, and need as many connections."""
_LOOK_SECONDS = 1.0


class SharedPipeline:
    """Sends the commands of one turn of the event loop together, in one round trip.

    A thousand tasks that each send one command then cost what one pipeline costs. No burst needs
    more connections than there may be round trips: what comes meanwhile leaves with the next. A
    cluster gets a pipeline for each of its nodes.
    """

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._waiting: deque[_Submitted] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._scripts: dict[str, str] = {}
        self._answered = 0
        """Round trips so far that came back."""
        self._looked_at = 0.0
        """When a cluster was last asked who holds what."""

    def script(self, text: str) -> str:
        """Take in a Lua script; returns the digest that `EVALSHA` wants."""
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self._scripts[digest] = text
        return digest

    def submit(self, *command: EncodableT) -> asyncio.Future[Any]:
        """Send a command with the others of this turn; the future holds its answer.

        A key, or a channel, is the first argument, or stands where `EVALSHA` has it.
        """
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._wait(command, answer)
        return answer

    async def read_hash(self, key: str) -> dict[bytes, bytes]:
        """A whole hash."""
        answer: dict[bytes, bytes] | list[bytes] = await self.submit("HGETALL", key)
        if isinstance(answer, dict):
            return answer
        return dict(zip(answer[::2], answer[1::2], strict=True))

    def _wait(self, command: Command, answer: asyncio.Future[Any]) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._send)
        self._waiting.append((command, answer))

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

    async def _execute(self, batch: list[_Submitted]) -> None:
        answered = self._answered
        try:
            if isinstance(self._redis, RedisCluster):
                await self._by_node(self._redis, batch)
            else:
                await self._round_trip(batch)
        except Exception as error:
            _fail(batch, error)
            if isinstance(error, _UNREACHABLE) and answered == self._answered:
                # Nothing has come back since: whoever waits behind would only wait as long.
                _fail(self._waiting, error)
                self._waiting.clear()
        except asyncio.CancelledError:
            for _, answer in batch:
                answer.cancel()
            raise

    async def _by_node(self, cluster: RedisCluster, batch: list[_Submitted]) -> None:
        await cluster.initialize()
        parts: dict[ClusterNode, list[_Submitted]] = {}
        for one in batch:
            node = cluster.get_node_from_key(_key(one[0]))
            assert node is not None  # noqa: S101
            parts.setdefault(node, []).append(one)
        errors = await asyncio.gather(
            *(self._at_node(cluster, node, part) for node, part in parts.items())
        )
        for error in filter(None, errors):
            raise error

    async def _at_node(
        self, cluster: RedisCluster, node: ClusterNode, batch: list[_Submitted]
    ) -> Exception | None:
        """One node's part; returns why it failed, which harms no other's."""
        try:
            await self._round_trip(batch)
        except Exception as error:
            _fail(batch, error)
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

    async def _round_trip(self, batch: list[_Submitted]) -> None:
        results = await self._run([command for command, _ in batch])
        self._answered += 1
        for (command, answer), result in zip(batch, results, strict=True):
            if answer.done():
                continue
            if isinstance(result, NoScriptError):
                text = self._scripts[str(command[1])]
                self._wait(("EVAL", text, *command[2:]), answer)
            elif isinstance(result, Exception):
                answer.set_exception(result)
                answer.exception()  # one that nobody awaits any more is no news: another failed
            else:
                answer.set_result(result)

    async def _run(self, commands: list[Command]) -> list[Any]:
        redis: Any = self._redis
        if type(self._redis) is Redis:
            return await exchange(self._redis, commands)
        if len(commands) == 1:
            try:
                return [await redis.execute_command(*commands[0])]
            except ResponseError as error:
                return [error]
        async with redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            results: list[Any] = await pipeline.execute(raise_on_error=False)
            return results


def _key(command: Command) -> str:
    return str(command[3] if command[0] in ("EVALSHA", "EVAL") else command[1])


def _fail(batch: Iterable[_Submitted], error: Exception) -> None:
    for _, answer in batch:
        if not answer.done():
            answer.set_exception(error)
            answer.exception()


class Script:
    """A Lua script of this folder. All keys of one call must lie in one slot."""

    def __init__(self, pipeline: SharedPipeline, name: str) -> None:
        parts = ("stream", name)
        text = "\n".join((_FOLDER / f"{part}.lua").read_text() for part in parts)
        self._pipeline = pipeline
        self._digest = pipeline.script(text)

    def __call__(self, keys: Sequence[str], args: Sequence[EncodableT]) -> asyncio.Future[Any]:
        """Run it; what else is sent in this turn shares the round trip."""
        return self._pipeline.submit("EVALSHA", self._digest, len(keys), *keys, *args)
