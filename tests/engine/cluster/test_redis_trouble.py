"""Connections to Redis that break, stall or are flooded, and bursts: no loss goes unreported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from bff.connections.connection import Connection
from bff.redis.client import UNAVAILABLE, RedisClient, create_client
from bff.settings import Settings
from bff.testing import until
from redis.asyncio import RedisCluster
from redis.exceptions import OutOfMemoryError

from tests.chaos.proxy import Proxy
from tests.engine.cluster.conftest import ClusterMember, StartInstance, everywhere, running
from tests.engine.cluster.test_stream_hub import numbers_of

BURST = 2000
PROBE = 0.5


@pytest.fixture
def settings(settings: Settings) -> Settings:
    if settings.redis_url == "memory://":
        pytest.skip("TEST_REDIS_URL names no real Redis server")
    return settings.model_copy(
        update={"pubsub_probe_seconds": PROBE, "max_connections_per_user": BURST}
    )


@pytest.fixture
async def proxy(settings: Settings) -> AsyncIterator[Proxy]:
    """A TCP proxy between one instance and Redis."""
    address = urlsplit(settings.redis_url)
    if address.scheme != "redis" or address.hostname not in ("127.0.0.1", "localhost"):
        pytest.skip("TEST_REDIS_URL names no single Redis on this machine")
    started = await Proxy(address.port or 6379).start()
    yield started
    await started.stop()


@pytest.fixture
async def proxied(proxy: Proxy, settings: Settings) -> AsyncIterator[ClusterMember]:
    """An instance that reaches Redis only through the proxy."""
    address = urlsplit(settings.redis_url)
    login = address.netloc.rpartition("@")[0]
    netloc = f"{login}@127.0.0.1:{proxy.port}" if login else f"127.0.0.1:{proxy.port}"
    client = create_client(address._replace(netloc=netloc).geturl())
    async with running(ClusterMember(client, settings)) as instance:
        yield instance
    await client.aclose()


async def send(instance: ClusterMember, numbers: range) -> None:
    for number in numbers:
        await instance.messenger.to_user("alice", "n", number)


class TestAConnectionToRedis:
    @pytest.mark.parametrize(
        "silent",
        [{"from_server": True}, {"to_server": True}, {"from_server": True, "to_server": True}],
        ids=lambda silent: "+".join(silent),
    )
    async def test_that_stalls_is_detected_and_missed_messages_are_read(
        self, proxy: Proxy, proxied: ClusterMember, start: StartInstance, silent: dict[str, bool]
    ) -> None:
        """No connection breaks: only the probe detects it."""
        a = await start()
        alice = await proxied.join("alice")
        await send(a, range(5))
        await until(lambda: numbers_of(alice) == list(range(5)))
        proxy.hold(**silent)
        await send(a, range(5, 10))
        await until(lambda: bool(proxied.pubsub_listener.error), seconds=3 * PROBE + 10)
        proxy.cut()
        proxy.release()
        await until(lambda: numbers_of(alice) == list(range(10)))
        await until(lambda: proxied.pubsub_listener.error == "")
        await send(a, range(10, 15))
        await until(lambda: numbers_of(alice) == list(range(15)))
        assert proxied.metric("bff_pubsub_restarts_total") >= 1
        assert alice.close_code is None

    async def test_that_is_cut_repeatedly_loses_no_message(
        self, proxy: Proxy, proxied: ClusterMember, start: StartInstance
    ) -> None:
        a = await start()
        alice = await proxied.join("alice")
        for number in range(50):
            await a.messenger.to_user("alice", "n", number)
            if number % 10 == 5:
                proxy.cut()
        await until(lambda: numbers_of(alice) == list(range(50)))
        assert proxied.metric("bff_pubsub_restarts_total") >= 1

    async def test_of_the_pool_that_hangs_does_not_delay_messages(
        self,
        proxy: Proxy,
        proxied: ClusterMember,
        start: StartInstance,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A half-open connection of the pool does not mean that the subscription has stalled."""

        async def hang(*_: Any, **__: Any) -> None:
            await asyncio.sleep(3600)

        a = await start()
        alice = await proxied.join("alice")
        monkeypatch.setattr("bff.cluster.pubsub_listener.publish_probe", hang)
        restarts = proxied.metric("bff_pubsub_restarts_total")
        for number in range(20):
            await a.messenger.to_user("alice", "n", number)
            await until(lambda number=number: numbers_of(alice)[-1:] == [number])  # type: ignore[misc]
            await asyncio.sleep(PROBE / 4)
        assert proxied.metric("bff_pubsub_restarts_total") == restarts

    async def test_that_stalls_after_a_send_has_sent_it_once(
        self, proxy: Proxy, proxied: ClusterMember, start: StartInstance
    ) -> None:
        a = await start()
        alice = await a.join("alice")
        proxy.hold(from_server=True)
        with pytest.raises(UNAVAILABLE):
            await proxied.messenger.to_user("alice", "n", 0)
        proxy.release()
        await send(a, range(1, 3))
        await until(lambda: numbers_of(alice)[-1:] == [2])
        assert numbers_of(alice) == [0, 1, 2]


async def test_a_subscriber_that_redis_disconnects_reconnects_and_misses_nothing(
    start: StartInstance, redis: RedisClient
) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    for number in range(60):
        await b.messenger.to_user("alice", "n", number)
        if number % 20 == 10:
            await redis.execute_command("CLIENT KILL", "TYPE", "pubsub", **everywhere(redis))
    await until(lambda: numbers_of(alice) == list(range(60)))
    await until(lambda: a.pubsub_listener.error == "")
    assert a.metric("bff_pubsub_restarts_total") >= 1


async def test_a_flood_on_the_own_channel_breaks_the_subscription_and_loses_no_message(
    start: StartInstance, redis: RedisClient
) -> None:
    """40 MB exceed the output buffer of a subscriber (client-output-buffer-limit: 32 MB)."""
    a, b = await start(), await start()
    alice = await a.join("alice")
    await send(b, range(10))
    await redis.execute_command("PUBLISH", a.pubsub_listener._own_channel, b"x" * 40_000_000)
    await send(b, range(10, 20))
    await until(lambda: numbers_of(alice) == list(range(20)))
    await until(lambda: a.metric("bff_pubsub_restarts_total") >= 1)
    await until(lambda: a.pubsub_listener.error == "")


async def test_a_redis_without_memory_refuses_messages(
    start: StartInstance, redis: RedisClient, proxy: Proxy
) -> None:
    """The first write of the script is refused: after one write Redis would let it continue."""
    a = await start()
    await a.messenger.to_user("alice", "n", 1)
    limit = (await redis.config_get("maxmemory"))["maxmemory"] or 0
    await redis.config_set("maxmemory", 1)
    try:
        for user_id in ("alice", "new"):
            with pytest.raises(OutOfMemoryError):
                await a.messenger.to_user(user_id, "n", 2)
    finally:
        await redis.config_set("maxmemory", limit)
    assert str((await a.messenger.to_user("alice", "n", 3)).id).endswith("/2")


async def test_a_burst_of_sends_is_stored_completely(start: StartInstance) -> None:
    a, b = await start(), await start()
    alice = await b.join("alice")
    sends = [a.messenger.to_user(f"user-{number % 50}", "n", number) for number in range(BURST)]
    sends += [a.messenger.to_user("alice", "n", number) for number in range(20)]
    sent = await asyncio.gather(*sends, return_exceptions=True)
    assert [error for error in sent if isinstance(error, BaseException)] == []
    await until(lambda: sorted(numbers_of(alice)) == list(range(20)))


async def test_a_burst_of_connects_is_admitted_completely(start: StartInstance) -> None:
    a, b = await start(), await start()
    joins = (a.join(f"user-{number % 500}") for number in range(BURST))
    joined = await asyncio.gather(*joins, return_exceptions=True)
    assert [one for one in joined if not isinstance(one, Connection)] == []
    assert len(await b.index.connections_of("user-7")) == BURST / 500
    sent = await b.messenger.to_all("n", 1)
    assert sent.id is not None
    await until(
        lambda: all(numbers_of(one) == [1] for one in joined if isinstance(one, Connection))
    )


async def test_in_a_cluster_the_probe_is_published_at_another_node(
    start: StartInstance, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that is cut off still delivers its own messages."""
    if not isinstance(redis, RedisCluster):
        pytest.skip("needs a Redis Cluster")
    asked: list[tuple[Any, Any]] = []
    execute = redis.execute_command

    async def record(*command: Any, **more: Any) -> Any:
        if command[0] == "PUBLISH":
            asked.append((command[1], more["target_nodes"]))
        return await execute(*command, **more)

    monkeypatch.setattr(redis, "execute_command", record)
    a = await start()
    await until(lambda: len(asked) >= 5)
    pubsub: Any = a.pubsub_listener._channels._pubsub
    assert all(node != pubsub.node for _, node in asked)
