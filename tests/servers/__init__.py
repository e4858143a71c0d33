"""Real servers for tests: those of the TEST_… variables, or private ones on free ports."""

from __future__ import annotations

import os
from pathlib import Path

from tests.servers import programs
from tests.servers.container import Container
from tests.servers.postgres import PostgresServer
from tests.servers.rabbitmq import RabbitmqServer
from tests.servers.redis import RedisCluster, RedisServer, RedisUnderSentinel
from tests.servers.server import GivenServer, Server, free_port

__all__ = [
    "Server",
    "keeping_redis",
    "keeping_redis_cluster",
    "postgres",
    "private_rabbitmq",
    "private_redis",
    "rabbitmq",
    "rabbitmq_with_tls",
    "redis",
    "redis_cluster",
    "redis_under_sentinel",
    "redis_with_users",
    "safe_redis_under_sentinel",
    "secret_redis",
]


def redis() -> Server:
    return _given("TEST_REDIS_URL") or private_redis()


def rabbitmq() -> Server:
    return _given("TEST_AMQP_URL") or private_rabbitmq()


def postgres() -> Server:
    if given := _given("TEST_DATABASE_URL"):
        return given
    if program := programs.provide("postgres"):
        return PostgresServer(program).start()
    return Container(
        "postgres:17-alpine",
        port=5432,
        url="postgresql+asyncpg://postgres@127.0.0.1:{port}/postgres",
        environment={"POSTGRES_HOST_AUTH_METHOD": "trust"},
        ready=("pg_isready", "-h", "127.0.0.1", "-U", "postgres"),
    ).start()


def private_redis() -> Server:
    """A private Redis, which the test may break, even if TEST_REDIS_URL is set."""
    if program := programs.provide("redis-server"):
        return RedisServer(program).start()
    return Container(
        "redis:7.4-alpine",
        port=6379,
        url="redis://127.0.0.1:{port}/0",
        ready=("redis-cli", "ping"),
    ).start()


def keeping_redis() -> RedisServer:
    """A private Redis that keeps its data when it is killed."""
    return RedisServer(_redis_program(), appendonly="yes").start()


def keeping_redis_cluster() -> RedisCluster:
    """Three private nodes that keep their data when they are killed."""
    return RedisCluster(_redis_program(), appendonly="yes").start()


def safe_redis_under_sentinel(patience_ms: int = 1000) -> RedisUnderSentinel:
    """A private master, replica and sentinel, which keep their data. A master without a replica
    accepts no writes, so that a failover loses none that it has confirmed since."""
    settings = {"appendonly": "yes", "min_replicas_to_write": "1"}
    return RedisUnderSentinel(_redis_program(), patience_ms, **settings).start()


def secret_redis(password: str) -> RedisServer:
    """A private Redis with a password."""
    return RedisServer(_redis_program(), requirepass=password).start()


def redis_with_users(file: Path) -> RedisServer:
    """A Redis of the caller's own with the users of an ACL file."""
    return RedisServer(_redis_program(), aclfile=str(file)).start()


def redis_cluster() -> RedisCluster:
    """Three private nodes."""
    return RedisCluster(_redis_program()).start()


def redis_under_sentinel(patience_ms: int = 1000) -> RedisUnderSentinel:
    """A private master, replica and sentinel."""
    return RedisUnderSentinel(_redis_program(), patience_ms).start()


def _redis_program() -> Path:
    program = programs.provide("redis-server", container=False)
    assert program is not None
    return program


def private_rabbitmq() -> Server:
    """A private RabbitMQ, which the test may break, even if TEST_AMQP_URL is set."""
    if program := programs.provide("rabbitmq-server"):
        return RabbitmqServer(program).start()
    return Container(
        "rabbitmq:4.2-alpine",
        port=5672,
        url="amqp://guest:guest@127.0.0.1:{port}/",
        ready=("rabbitmq-diagnostics", "-q", "check_port_connectivity"),
    ).start()


def rabbitmq_with_tls(folder: Path) -> RabbitmqServer:
    """A private RabbitMQ that also listens for TLS, on `tls_port`, with `ca.pem`, `server.pem` and
    `server.key` of a folder. It requires a client certificate of that CA."""
    program = programs.provide("rabbitmq-server", container=False)
    assert program is not None
    tls_port = free_port()
    server = RabbitmqServer(
        program,
        listeners__ssl__1=f"127.0.0.1:{tls_port}",
        ssl_options__cacertfile=str(folder / "ca.pem"),
        ssl_options__certfile=str(folder / "server.pem"),
        ssl_options__keyfile=str(folder / "server.key"),
        ssl_options__verify="verify_peer",
        ssl_options__fail_if_no_peer_cert="true",
    )
    server.tls_port = tls_port
    return server.start()


def _given(variable: str) -> Server | None:
    url = os.environ.get(variable)
    return GivenServer(url, variable) if url else None
