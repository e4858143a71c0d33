"""One client for every kind of Redis."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping
from typing import Any, Final, Self
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

RedisClient = Redis | RedisCluster

UNAVAILABLE: Final = (RedisError, OSError, TimeoutError)
"""What a Redis in trouble raises."""

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


def _plain(options: Mapping[str, Any]) -> type[Connection]:
    return _SSLConnection if options.get("ssl") else _Connection


class _Cluster(RedisCluster):
    """A cluster that cannot be reached raises what a server that cannot be reached raises."""

    def __init__(self, nodes: Iterable[tuple[str, int]], **options: Any) -> None:
        super().__init__(startup_nodes=[ClusterNode(*node) for node in nodes], **options)
        kind = _plain(options)
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
            if (database := urlsplit(url).path.strip("/")) and not database.isdecimal():
                raise ValueError("REDIS_URL: after the host comes the number of a database")
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
    for client in sentinel.sentinels:
        client.connection_pool.connection_class = (
            _SSLConnection if options.get("ssl") else _Connection
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
