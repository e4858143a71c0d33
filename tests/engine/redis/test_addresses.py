"""The formats of `REDIS_URL`."""

from __future__ import annotations

from typing import Any

import pytest
from bff.redis.client import create_client
from redis.asyncio import Redis, RedisCluster, SSLConnection
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection


def test_a_sentinel_url_may_contain_all_options() -> None:
    url = (
        "rediss+sentinel://bff:s%40fe@one:1,two/orders/3"
        "?sentinel_username=watch&sentinel_password=w%2Frd&ssl_ca_certs=/ca.pem&socket_timeout=2"
    )
    redis = create_client(url)
    assert isinstance(redis, Redis)
    pool: Any = redis.connection_pool
    options = pool.connection_kwargs
    assert (pool.service_name, options["db"], options["socket_timeout"]) == ("orders", 3, 2)
    assert (options["username"], options["password"]) == ("bff", "s@fe")
    assert options["ssl_ca_certs"] == "/ca.pem"
    assert issubclass(pool.connection_class, SentinelManagedSSLConnection)
    for sentinel, address in zip(
        pool.sentinel_manager.sentinels, [("one", 1), ("two", 26379)], strict=True
    ):
        options_ = sentinel.connection_pool.connection_kwargs
        assert (options_["host"], options_["port"]) == address
        assert (options_["username"], options_["password"]) == ("watch", "w/rd")
        assert options_["ssl_ca_certs"] == "/ca.pem"


async def test_a_cluster_url_may_name_several_nodes() -> None:
    redis = create_client("redis+cluster://:pw@one,two:7001,[::1]:7002/0?socket_timeout=2")
    assert isinstance(redis, RedisCluster)
    assert {(node.host, node.port) for node in redis.startup_nodes} == {
        ("one", 6379),
        ("two", 7001),
        ("::1", 7002),
    }
    assert redis.connection_kwargs["password"] == "pw"
    assert redis.connection_kwargs["socket_timeout"] == 2


@pytest.mark.parametrize("is_encrypted", [True, False])
def test_tls_is_used_where_the_scheme_says_so(is_encrypted: bool) -> None:
    s = "s" if is_encrypted else ""
    single: Any = create_client(f"redis{s}://host/0")
    cluster: Any = create_client(f"redis{s}+cluster://host")
    managed: Any = create_client(f"redis{s}+sentinel://host/orders")
    sentinels = [one.connection_pool for one in managed.connection_pool.sentinel_manager.sentinels]
    classes = [
        single.connection_pool.connection_class,
        cluster.connection_kwargs["connection_class"],
        *(node.connection_class for node in cluster.startup_nodes),
        *(pool.connection_class for pool in sentinels),
    ]
    assert [issubclass(one, SSLConnection) for one in classes] == [is_encrypted] * 4
    kind = SentinelManagedSSLConnection if is_encrypted else SentinelManagedConnection
    assert issubclass(managed.connection_pool.connection_class, kind)


def test_a_sentinel_url_may_leave_out_the_master_and_the_database() -> None:
    pool: Any = create_client("redis+sentinel://host").connection_pool  # type: ignore[union-attr]
    assert (pool.service_name, pool.connection_kwargs["db"]) == ("mymaster", 0)
    pool = create_client("redis+sentinel://host/orders").connection_pool  # type: ignore[union-attr]
    assert (pool.service_name, pool.connection_kwargs["db"]) == ("orders", 0)


def test_every_wait_has_an_end_and_no_command_is_repeated() -> None:
    for url in ("redis://host", "redis+sentinel://host", "redis+cluster://host"):
        client: Any = create_client(url, max_connections=7)
        pool = getattr(client, "connection_pool", None)
        options = pool.connection_kwargs if pool else client.connection_kwargs
        assert (options["socket_timeout"], options["socket_connect_timeout"]) == (5, 5)
        assert options["protocol"] == 2
        assert (client.retry if pool is None else options["retry"]).get_retries() == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://host",
        "redis://host/abc",
        "redis://host/0/1",
        "redis+sentinel:///mymaster",
        "redis+sentinel://host/mymaster/x",
        "redis+sentinel://host/mymaster/0/more",
        "redis+cluster://host/1",
        "redis+cluster://one,:7001",
    ],
)
def test_invalid_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="REDIS_URL"):
        create_client(url)
