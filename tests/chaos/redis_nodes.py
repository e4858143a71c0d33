"""The Redis of a run: one server, a cluster, or a master and a replica under Sentinel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from subprocess import TimeoutExpired

from tests import servers
from tests.chaos.plan import NODES, RedisKind
from tests.servers.redis import RedisCluster, RedisServer, RedisUnderSentinel
from tests.servers.server import Server, ServerError


class RedisNodes:
    """All of them, started; each by the name that the plan uses."""

    def __init__(self, kind: RedisKind) -> None:
        """
        Raises:
            ServerError: Redis is not installed, or does not start.
        """
        self.kind = kind
        self._server, found = _START[kind]()
        self._nodes = dict(zip(NODES[kind], found, strict=True))
        self.url = self._server.url

    def node(self, name: str) -> RedisServer:
        """The server that has this part now: a failover exchanges master and replica."""
        return self._nodes[name]()

    def remember(self) -> None:
        """Save the data of all nodes for `roll_back`."""
        if self.kind is not RedisKind.SENTINEL:
            for name in self._nodes:
                self.node(name).remember()

    def unsubscribe(self) -> None:
        """Close every connection that is subscribed to something."""
        for name in self._nodes:
            if name != "redis-sentinel":
                with suppress(ServerError):
                    self.node(name).control("client", "kill", "type", "pubsub")

    def accepts_writes(self) -> bool:
        """Whether the master that Sentinel names can be written; the others always can."""
        if self.kind is not RedisKind.SENTINEL:
            return True
        try:
            return self.node("redis-master").control("set", "writable", "1", "ex", "1") == "OK\n"
        except (ServerError, TimeoutExpired):
            return False

    def remove(self) -> None:
        self._server.remove()


_Nodes = tuple[Server, list[Callable[[], RedisServer]]]


def _one() -> _Nodes:
    server = servers.keeping_redis()
    return server, [lambda: server]


def _cluster() -> _Nodes:
    cluster: RedisCluster = servers.keeping_redis_cluster()
    return cluster, [lambda node=node: node for node in cluster.servers]  # type: ignore[misc]


def _sentinel() -> _Nodes:
    watched: RedisUnderSentinel = servers.safe_redis_under_sentinel()
    return watched, [watched.current_master, watched.current_replica, lambda: watched.sentinel]


_START: dict[RedisKind, Callable[[], _Nodes]] = {
    RedisKind.SERVER: _one,
    RedisKind.CLUSTER: _cluster,
    RedisKind.SENTINEL: _sentinel,
}
