"""Batches of commands for a cluster's nodes, and what the cluster client chooses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest
from bff.redis import batch
from bff.redis.client import UNAVAILABLE, create_client, create_pubsub, publish_probe
from bff.redis.eviction import eviction_warning
from bff.redis.pipeline import AutoPipeline, Script
from bff.testing import until
from redis.asyncio import RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisClusterException, SlotNotCoveredError


class Node:
    """A node of a cluster, as the executor uses it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.disconnects = 0

    async def disconnect_free_connections(self) -> None:
        self.disconnects += 1


class Pipeline:
    """A pipeline that answers each command as `Cluster.reply_to` does: with its last argument."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._commands: list[Sequence[Any]] = []

    async def __aenter__(self) -> Pipeline:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    def execute_command(self, *command: Any) -> None:
        self._commands.append(command)

    async def execute(self, raise_on_error: bool) -> list[Any]:
        assert not raise_on_error
        self._cluster.batches.append(self._commands)
        await self._cluster.before_reply(self._commands)
        return [self._cluster.reply_to(command) for command in self._commands]


class Cluster:
    """The parts of a cluster client that the executor uses; a key names its node: `a:x`. The slots
    of `c:` have no node."""

    def __init__(self, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.client = client
        self.nodes = {name: Node(name) for name in "ab"}
        self.batches: list[list[Sequence[Any]]] = []
        self.refreshes: list[str | None] = []
        self.before_reply: Callable[[list[Sequence[Any]]], Any] = self.reply_at_once
        self.reply_to: Callable[[Sequence[Any]], Any] = lambda command: command[-1]
        monkeypatch.setattr(client, "initialize", self._initialize)
        monkeypatch.setattr(client, "get_node_from_key", self._node)
        monkeypatch.setattr(client, "pipeline", self._pipeline)
        monkeypatch.setattr(
            type(client.nodes_manager), "initialize", lambda _, **options: self._refresh(**options)
        )

    def _node(self, key: str) -> Node:
        if key.startswith("c:"):
            raise SlotNotCoveredError("slot 1 is not covered by the cluster")
        return self.nodes[key.split(":")[0]] if key else self.nodes["a"]

    def _pipeline(self, transaction: bool) -> Pipeline:
        assert not transaction, "a command that fails must not undo the others"
        return Pipeline(self)

    async def reply_at_once(self, commands: list[Sequence[Any]]) -> None: ...

    async def _initialize(self) -> None: ...

    async def _refresh(self, last_failed_node_name: str | None) -> None:
        self.refreshes.append(last_failed_node_name)


@pytest.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Cluster]:
    client = create_client("redis+cluster://127.0.0.1:1")
    yield Cluster(client, monkeypatch)
    await client.aclose()


async def test_commands_go_to_the_node_of_their_key(cluster: Cluster) -> None:
    pipeline = AutoPipeline(cluster.client)
    script = Script(pipeline, "return 1")
    replies: list[str] = await asyncio.gather(
        pipeline.submit("GET", "a:1"),
        pipeline.submit("SET", "b:1", "x"),
        script(["a:2"], ["y"]),
        script(["b:2"], ["z"]),
    )
    assert replies == ["a:1", "x", "y", "z"]
    keys = [{command[3] if "EVAL" in command[0] else command[1] for command in one}
            for one in cluster.batches]  # fmt: skip
    assert sorted(map(sorted, keys)) == [["a:1", "a:2"], ["b:1", "b:2"]]


async def test_a_command_without_a_key_goes_to_any_node(cluster: Cluster) -> None:
    assert await AutoPipeline(cluster.client).submit("TIME") == "TIME"


async def test_a_script_that_a_node_does_not_know_is_sent_to_it(cluster: Cluster) -> None:
    def reply_to(command: Sequence[Any]) -> Any:
        return NoScriptError() if command[0] == "EVALSHA" else command

    cluster.reply_to = reply_to
    script = Script(AutoPipeline(cluster.client), "return 1")
    assert await script(["b:1"], ["x"]) == ("EVAL", "return 1", 1, "b:1", "x")


async def test_a_command_after_another_is_sent_when_that_one_was_answered(cluster: Cluster) -> None:
    pipeline = AutoPipeline(cluster.client)
    first = pipeline.submit("SET", "a:1", "x")
    second = pipeline.submit("SET", "b:1", "y", after=first)
    assert (await second, await first) == ("y", "x")
    assert [one[0][1] for one in cluster.batches] == ["a:1", "b:1"]


async def test_commands_beyond_the_round_trips_in_flight_follow(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_MAX_BATCH", 10)
    monkeypatch.setattr(batch, "_MAX_IN_FLIGHT", 1)
    pipeline = AutoPipeline(cluster.client)
    replies = [pipeline.submit("SET", "a:1", str(number)) for number in range(25)]
    async with asyncio.timeout(15):
        assert await asyncio.gather(*replies) == [str(number) for number in range(25)]
    assert [len(one) for one in cluster.batches] == [10, 10, 5]


async def test_a_node_that_fails_does_not_affect_the_others(cluster: Cluster) -> None:
    """Its connections are closed, and the slots are read again: another node may have them now."""

    async def fail(commands: list[Sequence[Any]]) -> None:
        if commands[0][1].startswith("a"):
            raise RedisConnectionError("gone")

    cluster.before_reply = fail
    pipeline = AutoPipeline(cluster.client)
    bad, good = pipeline.submit("GET", "a:1"), pipeline.submit("GET", "b:1")
    with pytest.raises(RedisConnectionError, match="gone"):
        await bad
    assert await good == "b:1"
    assert [node.disconnects for node in cluster.nodes.values()] == [1, 0]
    assert cluster.refreshes == ["a"]


async def test_a_slot_without_a_node_does_not_affect_the_others(cluster: Cluster) -> None:
    pipeline = AutoPipeline(cluster.client)
    good, bad, better = (pipeline.submit("GET", key) for key in ("a:1", "c:1", "b:1"))
    with pytest.raises(RedisConnectionError, match="slot 1 is not covered"):
        await bad
    assert (await good, await better) == ("a:1", "b:1")
    await until(lambda: cluster.refreshes == [None])  # it may have got a node


@pytest.mark.parametrize(("seconds", "refreshes"), [(60.0, 1), (0.0, 3)])
async def test_the_slots_are_not_read_for_each_failure(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, seconds: float, refreshes: int
) -> None:
    monkeypatch.setattr(batch, "_MIN_REFRESH_SECONDS", seconds)
    monkeypatch.setattr(asyncio.get_running_loop(), "time", iter(range(1000, 2000)).__next__)

    async def fail(_: list[Sequence[Any]]) -> None:
        raise RedisConnectionError("gone")

    cluster.before_reply = fail
    pipeline = AutoPipeline(cluster.client)
    for _ in range(3):
        with pytest.raises(RedisConnectionError):
            await pipeline.submit("GET", "a:1")
    assert len(cluster.refreshes) == refreshes


async def test_commands_that_wait_behind_a_dead_cluster_fail_with_it(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would wait for its own timeout otherwise."""
    monkeypatch.setattr(batch, "_MAX_BATCH", 1)
    monkeypatch.setattr(batch, "_MAX_IN_FLIGHT", 1)

    async def fail(_: list[Sequence[Any]]) -> None:
        raise TimeoutError("no reply")

    cluster.before_reply = fail
    pipeline = AutoPipeline(cluster.client)
    replies = [pipeline.submit("GET", "a:1") for _ in range(5)]
    for error in await asyncio.gather(*replies, return_exceptions=True):
        assert isinstance(error, TimeoutError)
    cluster.before_reply = cluster.reply_at_once
    await pipeline.submit("GET", "a:2")
    assert [command[1] for one in cluster.batches for command in one] == ["a:1", "a:2"]


@pytest.mark.parametrize("is_alive", [True, False], ids=["an error reply", "others are answered"])
async def test_commands_that_wait_are_sent_when_the_cluster_lives(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, is_alive: bool
) -> None:
    monkeypatch.setattr(batch, "_MAX_BATCH", 1)
    monkeypatch.setattr(batch, "_MAX_IN_FLIGHT", 1 if is_alive else 2)
    others = asyncio.Event()

    async def fail(commands: list[Sequence[Any]]) -> None:
        if commands[0][-1] == "bad":
            if not is_alive:
                await others.wait()
            raise ValueError("odd") if is_alive else RedisConnectionError("gone")
        others.set()

    cluster.before_reply = fail
    pipeline = AutoPipeline(cluster.client)
    words = ("bad", "1", "2", "3")
    replies = [pipeline.submit("SET", "a:1", word) for word in words]
    async with asyncio.timeout(15):
        bad, *good = await asyncio.gather(*replies, return_exceptions=True)
    assert isinstance(bad, ValueError if is_alive else RedisConnectionError)
    assert good == ["1", "2", "3"]


async def test_a_cluster_without_a_node_is_a_connection_error() -> None:
    client = create_client("redis+cluster://127.0.0.1:1")
    with pytest.raises(RedisConnectionError) as raised:
        await client.initialize()
    assert isinstance(raised.value.__cause__, RedisClusterException)
    await client.aclose()


class TestProbe:
    """What `PubSubListener` needs of a cluster."""

    @pytest.fixture
    def published(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Commands with their options."""
        commands: list[Any] = []

        async def execute(*command: Any, **options: Any) -> None:
            commands.append((command, options))

        monkeypatch.setattr(cluster.client, "execute_command", execute)
        return commands

    @staticmethod
    def has(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, nodes: list[Any]) -> None:
        monkeypatch.setattr(cluster.client, "get_primaries", lambda: nodes)

    @pytest.mark.parametrize("position", [0, 1])
    async def test_it_is_published_at_another_node(
        self,
        cluster: Cluster,
        published: list[Any],
        monkeypatch: pytest.MonkeyPatch,
        position: int,
    ) -> None:
        nodes = [*cluster.nodes.values()]
        self.has(cluster, monkeypatch, nodes)
        subscribed: Any = type("PubSub", (), {"node": nodes[position]})
        await publish_probe(cluster.client, "channel", b"probe", subscription=subscribed)
        options = {"target_nodes": nodes[1 - position]}
        assert published == [(("PUBLISH", "channel", b"probe"), options)]

    async def test_a_cluster_of_one_node_uses_that_one(
        self, cluster: Cluster, published: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        node = cluster.nodes["a"]
        self.has(cluster, monkeypatch, [node])
        subscribed: Any = type("PubSub", (), {"node": node})
        await publish_probe(cluster.client, "channel", b"probe", subscription=subscribed)
        assert published == [(("PUBLISH", "channel", b"probe"), {"target_nodes": node})]

    async def test_a_retry_may_subscribe_at_another_node(
        self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nodes = [*cluster.nodes.values()]
        self.has(cluster, monkeypatch, nodes)
        known: list[bool] = []

        async def initialize() -> None:
            known.append(True)

        monkeypatch.setattr(cluster.client, "initialize", initialize)
        monkeypatch.setattr(cluster.client, "get_primaries", lambda: nodes if known else [])
        chosen: list[Node] = []
        monkeypatch.setattr(random, "choice", lambda among: among[len(chosen) % 2])
        monkeypatch.setattr(cluster.client, "pubsub", lambda node: chosen.append(node))
        await create_pubsub(cluster.client)
        await create_pubsub(cluster.client)
        assert chosen == nodes

    async def test_a_single_server_has_no_nodes(self) -> None:
        redis = create_client("memory://")
        pubsub = await create_pubsub(redis)
        await pubsub.subscribe("channel")
        await publish_probe(redis, "channel", b"probe", subscription=pubsub)
        async with asyncio.timeout(15):
            async for message in pubsub.listen():
                if message["type"] == "message":
                    break
        assert message["data"] == b"probe"
        await pubsub.aclose()
        await redis.aclose()


async def test_each_primary_is_asked_for_its_eviction_policy(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    async def info(section: str, target_nodes: str = "") -> dict[str, Any]:
        asked.append((section, target_nodes))
        return {"a": {"maxmemory_policy": "noeviction"}}

    monkeypatch.setattr(cluster.client, "info", info)
    assert await eviction_warning(cluster.client) == ""
    assert asked == [("memory", RedisCluster.PRIMARIES)]


async def test_commands_for_a_slot_without_a_node_do_not_fail_those_that_wait(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_MAX_BATCH", 5)
    monkeypatch.setattr(batch, "_MAX_IN_FLIGHT", 1)
    pipeline = AutoPipeline(cluster.client)
    uncovered = [pipeline.submit("GET", "c:1") for _ in range(5)]
    waiting = [pipeline.submit("GET", "a:1") for _ in range(3)]
    failed = await asyncio.gather(*uncovered, return_exceptions=True)
    assert all(isinstance(one, UNAVAILABLE) for one in failed)
    assert await asyncio.gather(*waiting) == ["a:1"] * 3
