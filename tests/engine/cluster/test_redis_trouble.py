"""Links to Redis that break, go silent or are flooded, and bursts: nothing is lost in silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from bff.connections.connection import Connection
from bff.redis.client import UNAVAILABLE, RedisClient, connect
from bff.settings import Settings
from bff.testing import until
from redis.asyncio import RedisCluster
from redis.exceptions import OutOfMemoryError

from tests.chaos.proxy import Proxy
from tests.engine.cluster.conftest import ClusterMember, StartInstance, everywhere, listening
from tests.engine.cluster.test_stream_hub import numbers_of

BURST = 2000
PROBE = 0.2


@pytest.fixture
def settings(settings: Settings) -> Settings:
    if settings.redis_url == "memory://":
        pytest.skip("TEST_REDIS_URL names no Redis that could be in trouble")
    return settings.model_copy(
        update={"pubsub_probe_seconds": PROBE, "max_connections_per_user": BURST}
    )


@pytest.fixture
async def link(settings: Settings) -> AsyncIterator[Proxy]:
    """One instance's way to Redis."""
    address = urlsplit(settings.redis_url)
    if address.scheme != "redis" or address.hostname not in ("127.0.0.1", "localhost"):
        pytest.skip("TEST_REDIS_URL names no single Redis on this machine")
    proxy = await Proxy(address.port or 6379).start()
    yield proxy
    await proxy.stop()


@pytest.fixture
async def behind(link: Proxy, settings: Settings) -> AsyncIterator[ClusterMember]:
    """An instance that reaches Redis through the link only."""
    address = urlsplit(settings.redis_url)
    login = address.netloc.rpartition("@")[0]
    netloc = f"{login}@127.0.0.1:{link.port}" if login else f"127.0.0.1:{link.port}"
    client = connect(address._replace(netloc=netloc).geturl())
    async with listening(ClusterMember(client, settings)) as instance:
        yield instance
    await client.aclose()


async def send(instance: ClusterMember, numbers: range) -> None:
    for number in numbers:
        await instance.messenger.to_user("alice", "n", number)


class TestALink:
    @pytest.mark.parametrize(
        "silent",
        [{"from_server": True}, {"to_server": True}, {"from_server": True, "to_server": True}],
        ids=lambda silent: "+".join(silent),
    )
    async def test_that_goes_silent_is_noticed_and_what_came_meanwhile_is_fetched(
        self, link: Proxy, behind: ClusterMember, start: StartInstance, silent: dict[str, bool]
    ) -> None:
        """No connection breaks: only the probe can tell."""
        a = await start()
        alice = await behind.join("alice")
        await send(a, range(5))
        await until(lambda: numbers_of(alice) == list(range(5)))
        link.hold(**silent)
        await send(a, range(5, 10))
        await until(lambda: bool(behind.listener.reason), seconds=3 * PROBE + 10)
        link.cut()
        link.release()
        await until(lambda: numbers_of(alice) == list(range(10)))
        await until(lambda: behind.listener.reason == "")
        await send(a, range(10, 15))
        await until(lambda: numbers_of(alice) == list(range(15)))
        assert behind.metric("bff_pubsub_restarts_total") >= 1
        assert alice.closing is None

    async def test_that_is_cut_again_and_again_loses_nothing(
        self, link: Proxy, behind: ClusterMember, start: StartInstance
    ) -> None:
        a = await start()
        alice = await behind.join("alice")
        for number in range(50):
            await a.messenger.to_user("alice", "n", number)
            if number % 10 == 5:
                link.cut()
        await until(lambda: numbers_of(alice) == list(range(50)))
        assert behind.metric("bff_pubsub_restarts_total") >= 1

    async def test_of_one_command_that_hangs_stops_no_message(
        self,
        link: Proxy,
        behind: ClusterMember,
        start: StartInstance,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A half-open connection of the pool is not a deaf relay."""

        async def hang(*_: Any) -> None:
            await asyncio.sleep(3600)

        a = await start()
        alice = await behind.join("alice")
        monkeypatch.setattr("bff.cluster.pubsub_listener.publish_to", hang)
        restarts = behind.metric("bff_pubsub_restarts_total")
        for number in range(20):
            await a.messenger.to_user("alice", "n", number)
            await until(lambda number=number: numbers_of(alice)[-1:] == [number])  # type: ignore[misc]
            await asyncio.sleep(PROBE / 4)
        assert behind.metric("bff_pubsub_restarts_total") == restarts

    async def test_on_which_a_send_had_no_answer_has_sent_it_once(
        self, link: Proxy, behind: ClusterMember, start: StartInstance
    ) -> None:
        a = await start()
        alice = await a.join("alice")
        link.hold(from_server=True)
        with pytest.raises(UNAVAILABLE):
            await behind.messenger.to_user("alice", "n", 0)
        link.release()
        await send(a, range(1, 3))
        await until(lambda: numbers_of(alice)[-1:] == [2])
        assert numbers_of(alice) == [0, 1, 2]


async def test_a_subscriber_that_redis_throws_out_comes_back_and_misses_nothing(
    start: StartInstance, redis: RedisClient
) -> None:
    a, b = await start(), await start()
    alice = await a.join("alice")
    for number in range(60):
        await b.messenger.to_user("alice", "n", number)
        if number % 20 == 10:
            await redis.execute_command("CLIENT KILL", "TYPE", "pubsub", **everywhere(redis))
    await until(lambda: numbers_of(alice) == list(range(60)))
    await until(lambda: a.listener.reason == "")
    assert a.metric("bff_pubsub_restarts_total") >= 1


async def test_a_flood_on_the_instances_channel_costs_the_subscription_and_no_message(
    start: StartInstance, redis: RedisClient
) -> None:
    """40 MB are more than Redis holds for a subscriber (client-output-buffer-limit: 32 MB)."""
    a, b = await start(), await start()
    alice = await a.join("alice")
    await send(b, range(10))
    await redis.execute_command("PUBLISH", a.listener._own_channel, b"x" * 40_000_000)
    await send(b, range(10, 20))
    await until(lambda: numbers_of(alice) == list(range(20)))
    await until(lambda: a.metric("bff_pubsub_restarts_total") >= 1)
    await until(lambda: a.listener.reason == "")


async def test_a_redis_without_memory_refuses_messages(
    start: StartInstance, redis: RedisClient, link: Proxy
) -> None:
    """And keeps within its limit: a script that has written anything would be let go on."""
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


async def test_a_burst_of_sends_is_taken_whole(start: StartInstance) -> None:
    a, b = await start(), await start()
    alice = await b.join("alice")
    sends = [a.messenger.to_user(f"user-{number % 50}", "n", number) for number in range(BURST)]
    sends += [a.messenger.to_user("alice", "n", number) for number in range(20)]
    sent = await asyncio.gather(*sends, return_exceptions=True)
    assert [error for error in sent if isinstance(error, BaseException)] == []
    await until(lambda: sorted(numbers_of(alice)) == list(range(20)))


async def test_a_burst_of_connects_is_let_in_whole(start: StartInstance) -> None:
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


async def test_in_a_cluster_the_probe_comes_from_another_node(
    start: StartInstance, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that the others do not reach would still hear itself."""
    if not isinstance(redis, RedisCluster):
        pytest.skip("needs a Redis Cluster: the template runs it on one")
    asked: list[tuple[Any, Any]] = []
    execute = redis.execute_command

    async def record(*command: Any, **more: Any) -> Any:
        if command[0] == "PUBLISH":
            asked.append((command[1], more["target_nodes"]))
        return await execute(*command, **more)

    monkeypatch.setattr(redis, "execute_command", record)
    a = await start()
    await until(lambda: len(asked) >= 5)
    pubsub: Any = a.listener._channels._pubsub
    assert all(node != pubsub.node for _, node in asked)
