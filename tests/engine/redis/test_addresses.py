"""The formats of `REDIS_URL`."""

from __future__ import annotations

from typing import Any

import pytest
from bff.redis.client import create_client
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.sentinel import SentinelManagedSSLConnection


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
    ],
)
def test_invalid_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="REDIS_URL"):
        create_client(url)
