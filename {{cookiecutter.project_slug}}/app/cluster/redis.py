"""One client for every kind of Redis, and the scripts that run in it."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self, cast
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisClusterException, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.typing import EncodableT

from app.cluster.exchange import Command, exchange

RedisClient = Redis | RedisCluster
_Submitted = tuple[Command, asyncio.Future[Any]]

UNAVAILABLE: Final = (RedisError, OSError, TimeoutError)
"""What a Redis in trouble raises."""

_UNREACHABLE: Final = (RedisConnectionError, RedisTimeoutError, OSError, TimeoutError)

_FOLDER = Path(__file__).parent
_PIPELINE = 500
_UNDER_WAY = 16
"""Round trips at the same time: more would make nothing faster, and need as many connections."""
_LOOK_SECONDS = 1.0
_TIMEOUTS: Final[dict[str, Any]] = {"socket_timeout": 5, "socket_connect_timeout": 5}
_SENTINEL_TIMEOUTS: Final[dict[str, Any]] = {"socket_timeout": 1, "socket_connect_timeout": 1}


class _Cancellable(AbstractConnection):
    """A connection on which a send can be cancelled, and that says so when it is lost.

    redis-py sends within `asyncio.wait_for`, which makes a task of each, and on Python 3.11 loses
    the caller's cancellation if it comes as the send is done. On a write to a transport that is
    closed already uvloop raises RuntimeError, which redis-py passes on.
    """

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        if not self.is_connected:
            await self.connect_check_health(check_health=False)
        if isinstance(command, str):
            command = command.encode()
        try:
            async with asyncio.timeout(self.socket_timeout):
                await self._send_packed_command(
                    [command] if isinstance(command, bytes) else command
                )
        except BaseException as error:
            await self.disconnect(nowait=True)
            if isinstance(error, TimeoutError):
                raise RedisTimeoutError("Timeout writing to socket") from None
            if isinstance(error, OSError | RuntimeError):
                raise RedisConnectionError(f"Error while writing to socket: {error}") from error
            raise


class _Connection(_Cancellable, Connection):
    pass


class _SSLConnection(_Cancellable, SSLConnection):
    pass


class _SentinelConnection(_Cancellable, SentinelManagedConnection):
    pass


class _SentinelSSLConnection(_Cancellable, SentinelManagedSSLConnection):
    pass


class _Cluster(RedisCluster):
    """A cluster that cannot be reached raises what a server that cannot be reached raises."""

    def __init__(self, nodes: Iterable[tuple[str, int]], **options: Any) -> None:
        super().__init__(startup_nodes=[ClusterNode(*node) for node in nodes], **options)
        kind = _SSLConnection if options.get("ssl") else _Connection
        self.connection_kwargs["connection_class"] = kind
        for node in self.startup_nodes:
            node.connection_class = kind

    async def initialize(self, *args: Any, **options: Any) -> Self:
        try:
            await super().initialize(*args, **options)
        except RedisClusterException as error:
            raise RedisConnectionError(str(error)) from error
        return self


def connect(url: str, max_connections: int = 50) -> RedisClient:
    """A client for `redis://`, `rediss://`, `redis+sentinel://`, `redis+cluster://`, `memory://`;
    also `rediss+sentinel://` and `rediss+cluster://`. docs/deploy.md has their parts.

    Nothing is connected yet. Commands wait up to 5 s for a connection of the pool and up to 5 s
    for an answer. Nothing is sent twice: a Redis that was only slow would do it twice, and nobody
    could tell a message that is stored twice from two. A connection that broke while it was idle
    is replaced before it is used.

    Raises:
        ValueError: the address is of no known kind, or incomplete.
    """
    kind = url.partition("://")[0]
    common: dict[str, Any] = {"protocol": 2, "retry": Retry(NoBackoff(), 0)}
    match kind:
        case "memory":
            from fakeredis import FakeAsyncRedis, FakeServer

            return FakeAsyncRedis(server=FakeServer())
        case "redis" | "rediss":
            pool = BlockingConnectionPool.from_url(
                url, max_connections=max_connections, timeout=5, **common, **_TIMEOUTS
            )
            pool.connection_class = _SSLConnection if kind == "rediss" else _Connection
            return Redis(connection_pool=pool)
        case "redis+sentinel" | "rediss+sentinel":
            return _master(url, max_connections, common)
        case "redis+cluster" | "rediss+cluster":
            nodes, path, options = _parts(url, 6379)
            if path not in ([], ["0"]):
                raise ValueError("REDIS_URL: a cluster has no database but 0")
            more = {"max_connections": max_connections, **common, **_TIMEOUTS, **options}
            return _Cluster(nodes, **more)
    raise ValueError(f"REDIS_URL: {kind}:// is no known kind of Redis")


def _master(url: str, max_connections: int, common: dict[str, Any]) -> Redis:
    """Whatever server the sentinels call the master, asked for at each new connection."""
    sentinels, path, options = _parts(url, 26379)
    name, database = (*path, *("mymaster", "0")[len(path) :])[:2]
    if len(path) > 2 or not database.isdecimal():
        raise ValueError("REDIS_URL: after the sentinels comes /name or /name/database")
    to_sentinels = {
        "username": options.pop("sentinel_username", None),
        "password": options.pop("sentinel_password", None),
        **{name: value for name, value in options.items() if name.startswith("ssl")},
    }
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        sentinels, sentinel_kwargs={**common, **_SENTINEL_TIMEOUTS, **to_sentinels}
    )
    more = {"max_connections": max_connections, "db": int(database), **common, **_TIMEOUTS}
    kind = _SentinelSSLConnection if options.get("ssl") else _SentinelConnection
    master: Redis = sentinel.master_for(name, connection_class=kind, **{**more, **options})
    return master


def _parts(url: str, port: int) -> tuple[list[tuple[str, int]], list[str], dict[str, Any]]:
    """Hosts with ports, the parts of the path, and everything else as options of a connection."""
    parts = urlsplit(url)
    login, _, hosts = parts.netloc.rpartition("@")
    nodes = [urlsplit(f"//{host}") for host in hosts.split(",")]
    if not all(node.hostname for node in nodes):
        raise ValueError("REDIS_URL: a host is missing")
    options = dict(parse_url(f"redis://{login}@host?{parts.query}"))
    del options["host"]
    if parts.scheme.startswith("rediss"):
        options["ssl"] = True
    return (
        [(node.hostname or "", node.port or port) for node in nodes],
        [part for part in parts.path.split("/") if part],
        options,
    )


def why(error: BaseException) -> str:
    """An error in words, for operators; a time that ran out has none of its own."""
    return f"{type(error).__name__}: {str(error) or 'no answer'}"


async def read_hash(redis: RedisClient, key: str) -> dict[bytes, bytes]:
    """A whole hash."""
    return cast(dict[bytes, bytes], await redis.hgetall(key))


async def new_pubsub(redis: RedisClient) -> Any:
    """A subscription; of a cluster's nodes any one, so that another attempt may meet a better."""
    if isinstance(redis, RedisCluster):
        await redis.initialize()
        return redis.pubsub(node=random.choice(redis.get_primaries()))  # noqa: S311
    return redis.pubsub()


async def publish_to(redis: RedisClient, pubsub: Any, channel: str, text: bytes) -> None:
    """Publish so that a subscription proves all it can: in a cluster at another node than it
    listens to, since a node that the others do not reach would still hear itself."""
    more: dict[str, Any] = {}
    if isinstance(redis, RedisCluster):
        await redis.initialize()
        nodes = redis.get_primaries()
        others = [node for node in nodes if node != pubsub.node]
        more["target_nodes"] = random.choice(others or nodes)  # noqa: S311
    await redis.execute_command("PUBLISH", channel, text, **more)


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
