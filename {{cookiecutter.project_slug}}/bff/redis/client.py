"""Clients for a single Redis, Sentinel, Redis Cluster and an in-memory Redis."""

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

from bff.setting_types import split_url

RedisClient = Redis | RedisCluster

UNAVAILABLE: Final = (RedisError, RedisClusterException, OSError, TimeoutError)
"""What redis-py raises while Redis is unavailable. (`RedisClusterException` is no `RedisError`.)"""

_TIMEOUTS: Final[dict[str, Any]] = {"socket_timeout": 5, "socket_connect_timeout": 5}
_SENTINEL_TIMEOUTS: Final[dict[str, Any]] = {"socket_timeout": 1, "socket_connect_timeout": 1}


class _CancellableConnection(AbstractConnection):
    """A connection whose sends can be cancelled, and that reports its loss as `ConnectionError`.

    redis-py sends inside `asyncio.wait_for`, which starts a task for each send and, on Python
    3.11, loses a cancellation that arrives just as the send completes. On a write to a closed
    transport uvloop raises RuntimeError, which redis-py does not translate.
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
            refusal = _refusal(self._reader)
            await self.disconnect(nowait=True)
            if isinstance(error, TimeoutError):
                raise RedisTimeoutError("Timeout writing to socket") from None
            if isinstance(error, OSError | RuntimeError):
                text = refusal or f"Error while writing to socket: {error}"
                raise RedisConnectionError(text) from error
            raise


def _refusal(reader: object) -> str:
    """What Redis said before it closed a new connection: `maxclients` is reached, or its protected
    mode. It is still in the buffer of asyncio's `StreamReader`, which raises instead."""
    line = bytes(getattr(reader, "_buffer", b"")).partition(b"\r\n")[0].decode(errors="replace")
    if not line.startswith("-"):
        return ""
    hint = " (maxclients)" if "max number of clients" in line else ""
    return f"Redis refused the connection: {line[1:]}{hint}"


class _Connection(_CancellableConnection, Connection):
    pass


class _SSLConnection(_CancellableConnection, SSLConnection):
    pass


class _SentinelConnection(_CancellableConnection, SentinelManagedConnection):
    pass


class _SentinelSSLConnection(_CancellableConnection, SentinelManagedSSLConnection):
    pass


def _connection_class(options: Mapping[str, Any]) -> type[Connection]:
    return _SSLConnection if options.get("ssl") else _Connection


class _Cluster(RedisCluster):
    """Raises `ConnectionError`, as a single server does, when no node can be reached."""

    def __init__(self, nodes: Iterable[tuple[str, int]], **options: Any) -> None:
        super().__init__(startup_nodes=[ClusterNode(*node) for node in nodes], **options)
        connection_class = _connection_class(options)
        self.connection_kwargs["connection_class"] = connection_class
        for node in self.startup_nodes:
            node.connection_class = connection_class

    async def initialize(self, *args: Any, **options: Any) -> Self:
        try:
            await super().initialize(*args, **options)
        except RedisClusterException as error:
            raise RedisConnectionError(str(error)) from error
        return self


def create_client(url: str, max_connections: int = 50) -> RedisClient:
    """A client for `redis://`, `rediss://`, `redis+sentinel://`, `rediss+sentinel://`,
    `redis+cluster://`, `rediss+cluster://` or `memory://`; docs/deploy.md describes the formats.

    It connects on the first command. Commands wait up to 5 s for a connection of the pool and up
    to 5 s for a reply. No command is retried: a slow Redis would execute it twice, and a message
    that is stored twice cannot be told from two messages. An idle connection that was lost is
    replaced before it is used.

    Raises:
        ValueError: the URL is incomplete, or its scheme is not supported.
    """
    kind = url.partition("://")[0]
    common: dict[str, Any] = {"protocol": 2, "retry": Retry(NoBackoff(), 0)}
    match kind:
        case "memory":
            from fakeredis import FakeAsyncRedis, FakeServer

            return FakeAsyncRedis(server=FakeServer())
        case "redis" | "rediss":
            if (database := urlsplit(url).path.strip("/")) and not database.isdecimal():
                raise ValueError("REDIS_URL: use redis://host:port/<number of the database>")
            pool = BlockingConnectionPool.from_url(
                url, max_connections=max_connections, timeout=5, **common, **_TIMEOUTS
            )
            pool.connection_class = _SSLConnection if kind == "rediss" else _Connection
            return Redis(connection_pool=pool)
        case "redis+sentinel" | "rediss+sentinel":
            return _sentinel_client(url, max_connections, common)
        case "redis+cluster" | "rediss+cluster":
            nodes, path, options = _parts(url, 6379)
            if path not in ([], ["0"]):
                raise ValueError("REDIS_URL: a cluster has only database 0; leave the path out")
            more = {"max_connections": max_connections, **common, **_TIMEOUTS, **options}
            return _Cluster(nodes, **more)
    raise ValueError(
        f"REDIS_URL: {kind}:// is not supported; use redis://, redis+sentinel:// or redis+cluster://"
        ", with TLS rediss://, rediss+sentinel:// or rediss+cluster://, or memory://"
    )


def _sentinel_client(url: str, max_connections: int, common: dict[str, Any]) -> Redis:
    """A client that asks the sentinels for the current master at each new connection."""
    sentinels, path, options = _parts(url, 26379)
    name, database = (*path, *("mymaster", "0")[len(path) :])[:2]
    if len(path) > 2 or not database.isdecimal():
        raise ValueError("REDIS_URL: use redis+sentinel://host,host/<master name>/<database>")
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
    """Hosts with ports, the segments of the path, and the other parts as connection options."""
    parts = split_url(url)
    login, _, hosts = parts.netloc.rpartition("@")
    nodes = [urlsplit(f"//{host}") for host in hosts.split(",")]
    addresses = [(host, node.port or port) for node in nodes if (host := node.hostname)]
    if len(addresses) < len(nodes):
        raise ValueError("REDIS_URL: a host name is missing")
    options = dict(parse_url(f"redis://{login}@host?{parts.query}"))
    del options["host"]
    if parts.scheme.startswith("rediss"):
        options["ssl"] = True
    return (
        addresses,
        [part for part in parts.path.split("/") if part],
        options,
    )


def why(error: BaseException) -> str:
    """An error's type and text, for log lines; a timeout has no text of its own."""
    return f"{type(error).__name__}: {str(error) or 'no answer'}"


async def create_pubsub(redis: RedisClient) -> Any:
    """A redis-py `PubSub`. In a cluster it uses a random node, so that a retry may reach a
    healthy one."""
    if isinstance(redis, RedisCluster):
        await redis.initialize()
        return redis.pubsub(node=random.choice(redis.get_primaries()))  # noqa: S311
    return redis.pubsub()


async def publish_probe(
    redis: RedisClient, channel: str, text: bytes, *, subscription: Any
) -> None:
    """Publish a message that proves that a subscription works, which is a `PubSub` of redis-py.

    In a cluster it is published at another node than the subscription's: a node that is cut off
    still delivers its own messages.
    """
    options: dict[str, Any] = {}
    if isinstance(redis, RedisCluster):
        await redis.initialize()
        nodes = redis.get_primaries()
        others = [node for node in nodes if node != subscription.node]
        options["target_nodes"] = random.choice(others or nodes)  # noqa: S311
    await redis.execute_command("PUBLISH", channel, text, **options)
