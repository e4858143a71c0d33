"""One client for every kind of Redis, and the scripts that run in it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelManagedConnection
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import NoScriptError, RedisError
from redis.typing import EncodableT

from app.cluster.exchange import Command, exchange

RedisClient = Redis | RedisCluster

UNAVAILABLE: Final = (RedisError, OSError, TimeoutError)
"""What a Redis in trouble raises."""

_FOLDER = Path(__file__).parent
_PIPELINE = 500
_TIMEOUTS: Final[dict[str, Any]] = {"socket_timeout": 5, "socket_connect_timeout": 5}


class _LosesConnections(AbstractConnection):
    """A connection that says so when it is lost: on a write to a transport that is closed already,
    uvloop raises RuntimeError, which redis-py passes on."""

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            raise LostConnection(str(error)) from error


class _Connection(_LosesConnections, Connection):
    pass


class _SSLConnection(_LosesConnections, SSLConnection):
    pass


class _SentinelConnection(_LosesConnections, SentinelManagedConnection):
    pass


def connect(url: str, max_connections: int = 50) -> RedisClient:
    """A client for `redis://`, `rediss://`, `redis+sentinel://`, `redis+cluster://`, `memory://`.

    Nothing is connected yet. Commands wait up to 5 s for a connection of the pool and up to 5 s
    for an answer. Lost connections are replaced, but no command is repeated: whether one without
    an answer was carried out nobody knows, and a message that is sent again comes twice. Who may
    repeat, does so itself.

    Raises:
        ValueError: the address is of no known kind.
    """
    parts = urlsplit(url)
    once = Retry(NoBackoff(), 0)
    match parts.scheme:
        case "memory":
            from fakeredis import FakeAsyncRedis, FakeServer

            return FakeAsyncRedis(server=FakeServer())
        case "redis" | "rediss":
            pool = BlockingConnectionPool.from_url(
                url,
                max_connections=max_connections,
                timeout=5,
                protocol=2,
                retry=once,
                **_TIMEOUTS,
            )
            pool.connection_class = _SSLConnection if parts.scheme == "rediss" else _Connection
            return Redis(connection_pool=pool)
        case "redis+sentinel":
            hosts = [
                (host, int(port or 26379))
                for host, _, port in (
                    node.partition(":") for node in parts.netloc.rpartition("@")[2].split(",")
                )
            ]
            options: dict[str, Any] = {
                "username": parts.username,
                "password": parts.password,
                "protocol": 2,
                "retry": once,
                "connection_class": _SentinelConnection,
                **_TIMEOUTS,
            }
            sentinel = Sentinel(hosts, sentinel_kwargs=_TIMEOUTS)  # type: ignore[no-untyped-call]
            master: Redis = sentinel.master_for(parts.path.strip("/") or "mymaster", **options)
            return master
        case "redis+cluster" | "rediss+cluster":
            address = url.replace("+cluster", "", 1)
            return RedisCluster.from_url(address, protocol=2, retry=once, **_TIMEOUTS)
    raise ValueError(f"REDIS_URL: {parts.scheme}:// is no known kind of Redis")


async def read_hash(redis: RedisClient, key: str) -> dict[bytes, bytes]:
    """A whole hash."""
    return cast(dict[bytes, bytes], await redis.hgetall(key))


class SharedPipeline:
    """Sends the commands of one turn of the event loop together, in one round trip.

    A thousand tasks that each send one command then cost what one pipeline costs. Redis Cluster
    has no pipeline for scripts: there the commands run side by side.
    """

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._waiting: list[tuple[Command, asyncio.Future[Any]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._scripts: dict[str, str] = {}

    def script(self, text: str) -> str:
        """Take in a Lua script; returns the digest that `EVALSHA` wants."""
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self._scripts[digest] = text
        return digest

    def submit(self, *command: EncodableT) -> asyncio.Future[Any]:
        """Send a command with the others of this turn; the future holds its answer."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._wait(command, answer)
        return answer

    def _wait(self, command: Command, answer: asyncio.Future[Any]) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._send)
        self._waiting.append((command, answer))

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), _PIPELINE):
            task = asyncio.create_task(self._execute(waiting[start : start + _PIPELINE]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _execute(self, waiting: list[tuple[Command, asyncio.Future[Any]]]) -> None:
        try:
            results = await self._run([command for command, _ in waiting])
        except Exception as error:
            results = [error] * len(waiting)
        except asyncio.CancelledError:
            for _, answer in waiting:
                answer.cancel()
            raise
        for (command, answer), result in zip(waiting, results, strict=True):
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
        if isinstance(self._redis, RedisCluster):
            calls = (redis.execute_command(*command) for command in commands)
            return await asyncio.gather(*calls, return_exceptions=True)
        if type(self._redis) is Redis:
            return await exchange(self._redis, commands)
        async with redis.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            results: list[Any] = await pipeline.execute(raise_on_error=False)
            return results


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
