"""Redis in every kind of trouble, under a stream of numbered messages: sockets stay open, and what
is lost is announced."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

import httpx2
import pytest

from tests import servers
from tests.baked import InstalledProject
from tests.chaos.proxy import Proxy
from tests.e2e.browser import Browser
from tests.e2e.conftest import Admin, person_of
from tests.e2e.deployment import Cluster, Deployment, start_cluster
from tests.e2e.processes import Instance
from tests.e2e.waiting import until
from tests.servers import Server
from tests.servers.redis import RedisCluster, RedisServer, RedisUnderSentinel

PROBE = 0.5
RECOVERY = 40.0
"""Generous: back-off and lease are seconds here, but the machine may be busy."""
BETWEEN = 0.05
TOPIC = "numbered"


class Numbered:
    """Sends numbered messages to one user for as long as the block lasts."""

    def __init__(self, admin: Admin, instance: Instance, user_id: str) -> None:
        self._admin = admin
        self._url = f"{instance.url}/admin/broadcasts"
        self._user_id = user_id
        self.taken: list[int] = []
        """Messages that Redis has confirmed. The others may be stored or not."""

    async def __aenter__(self) -> Self:
        self._sending = asyncio.create_task(self._send_for_ever())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sending.cancel()
        await asyncio.gather(self._sending, return_exceptions=True)

    async def _send_for_ever(self) -> None:
        number = 0
        while True:
            body = {
                "audience": "users",
                "user_ids": [self._user_id],
                "topic": TOPIC,
                "event": {"n": number},
            }
            response = await self._admin.http.post(
                self._url, json=body, headers=self._admin.headers
            )
            assert response.status_code in (201, 503), response.text
            if response.status_code == 201:
                self.taken.append(number)
            number += 1
            await asyncio.sleep(BETWEEN)

    async def one_more(self) -> int:
        """Wait until a message is taken that was sent from now on."""
        before = len(self.taken) + 1

        def is_taken() -> bool:
            if self._sending.done():
                self._sending.result()
            return len(self.taken) > before

        await until(is_taken, "Redis takes messages", RECOVERY)
        return self.taken[-1]


def numbers(browser: Browser) -> list[int]:
    return [event["event"]["n"] for event in browser.events(TOPIC)]


def gaps(browser: Browser) -> int:
    """How many gaps the browser received for the stream of its user."""
    return sum(
        frame["type"] == "gap" and "user" in frame["payload"]["streams"] for frame in browser.frames
    )


@dataclass
class Flow:
    """A user with a socket on each instance, to whom numbered messages go."""

    cluster: Cluster
    browsers: list[Browser]
    numbered: Numbered

    async def reaches_all(self) -> None:
        """Wait until everybody gets what is sent from now on."""
        for _ in range(2):
            number = await self.numbered.one_more()
        for browser in self.browsers:
            await until(lambda it=browser: number in numbers(it), "it arrives", RECOVERY)  # type: ignore[misc]

    async def is_whole(self, *, complete: bool) -> None:
        """Wait for the end of the trouble; then look at what came. Where Redis has kept
        everything, a loss that is announced is one too many."""
        await all_ready(self.cluster.a, self.cluster.b)
        await self.reaches_all()
        for browser in self.browsers:
            got = numbers(browser)
            assert browser.is_open
            assert got == sorted(set(got)), "twice, or out of order"
            missing = {number for number in self.numbered.taken if number <= got[-1]} - set(got)
            assert not missing or (not complete and gaps(browser)), f"{missing} lost in silence"
            if complete:
                assert gaps(browser) == 0


@asynccontextmanager
async def flow(cluster: Cluster) -> AsyncIterator[Flow]:
    deployment = cluster.deployment
    alice = person_of(deployment)("alice")
    async with httpx2.AsyncClient(timeout=30, trust_env=False) as http:
        admin = Admin(http, deployment.token("carol", "admin"))
        browsers = [await Browser.open(one, token=alice.token) for one in (cluster.a, cluster.b)]
        for browser in browsers:
            await browser.next_frame(0)
        async with Numbered(admin, cluster.a, alice.id) as numbered:
            running = Flow(cluster, browsers, numbered)
            await running.reaches_all()
            yield running
        for browser in browsers:
            await browser.close()


async def ask(instance: Instance, path: str) -> httpx2.Response:
    async with httpx2.AsyncClient(timeout=10, trust_env=False) as http:
        return await http.get(f"{instance.url}{path}")


async def is_ready(instance: Instance) -> bool:
    return (await ask(instance, "/health/ready")).is_success


async def all_ready(*instances: Instance) -> None:
    for one in instances:
        await until(lambda it=one: is_ready(it), f"{one.name} is ready", RECOVERY)  # type: ignore[misc]


async def red(instance: Instance) -> str:
    """Wait until readiness fails because of Redis; returns why."""
    reason = ""

    async def is_red() -> bool:
        nonlocal reason
        reason = (await ask(instance, "/health/ready")).json()["checks"]["redis"]["reason"]
        return bool(reason)

    await until(is_red, f"{instance.name} is red", RECOVERY)
    return reason


async def all_red(cluster: Cluster) -> list[str]:
    """The same of both instances."""
    return list(await asyncio.gather(red(cluster.a), red(cluster.b)))


async def metric(instance: Instance, name: str) -> float:
    lines = (await ask(instance, "/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def deployed(
    project: InstalledProject, redis: Server, rabbitmq: Server, factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    deployment = Deployment(
        project,
        factory.mktemp("redis-trouble"),
        REDIS_URL=redis.url,
        AMQP_URL=rabbitmq.url,
        LEASE_SECONDS="3",
        LEASE_RENEWAL_SECONDS="0.5",
        PUBSUB_PROBE_SECONDS=str(PROBE),
        STREAM_CHECK_SECONDS="2",
        DRAIN_SECONDS="0",
    )
    try:
        yield start_cluster(deployment)
    finally:
        deployment.close()
        redis.remove()


@pytest.fixture(scope="module")
def redis() -> RedisServer:
    return servers.keeping_redis()


@pytest.fixture(scope="module")
def cluster(
    project: InstalledProject,
    redis: RedisServer,
    rabbitmq_server: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    """Two instances on one server."""
    yield from deployed(project, redis, rabbitmq_server, tmp_path_factory)


@pytest.fixture(scope="module")
def watched() -> RedisUnderSentinel:
    return servers.redis_under_sentinel()


@pytest.fixture(scope="module")
def under_sentinel(
    project: InstalledProject,
    watched: RedisUnderSentinel,
    rabbitmq_server: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    yield from deployed(project, watched, rabbitmq_server, tmp_path_factory)


@pytest.fixture(scope="module")
def nodes() -> RedisCluster:
    return servers.redis_cluster()


@pytest.fixture(scope="module")
def on_nodes(
    project: InstalledProject,
    nodes: RedisCluster,
    rabbitmq_server: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    yield from deployed(project, nodes, rabbitmq_server, tmp_path_factory)


async def test_a_server_that_throws_out_its_subscribers_loses_nothing(
    cluster: Cluster, redis: RedisServer
) -> None:
    restarts = await metric(cluster.b, "bff_pubsub_restarts_total")
    async with flow(cluster) as running:
        for _ in range(3):
            redis.control("client", "kill", "type", "pubsub")
            await running.numbered.one_more()
        await running.is_whole(complete=True)
    assert await metric(cluster.b, "bff_pubsub_restarts_total") > restarts


async def test_a_server_that_pauses_its_clients_is_noticed_and_loses_nothing(
    cluster: Cluster, redis: RedisServer
) -> None:
    async with flow(cluster) as running:
        redis.control("client", "pause", "5000", "all")
        await all_red(cluster)
        assert [await browser.answers() for browser in running.browsers] == [True, True]
        await running.is_whole(complete=True)


async def test_a_server_that_freezes_for_longer_than_commands_wait_repeats_nothing(
    cluster: Cluster, redis: RedisServer
) -> None:
    async with flow(cluster) as running:
        redis.pause()
        try:
            frozen_at = time.monotonic()
            await all_red(cluster)
            while time.monotonic() < frozen_at + 6:
                assert await running.browsers[0].answers()
                await asyncio.sleep(0.5)
        finally:
            redis.resume()
        await running.is_whole(complete=True)


async def test_a_server_that_is_flooded_on_the_instances_channel_loses_nothing(
    cluster: Cluster, redis: RedisServer
) -> None:
    """40 MB are more than Redis holds for a subscriber, which it then throws out."""
    flood = redis.folder / "flood"
    flood.write_bytes(b"x" * 40_000_000)
    restarts = await metric(cluster.b, "bff_pubsub_restarts_total")
    async with flow(cluster) as running:
        instance_id = running.browsers[1].connection_id.partition(".")[0]
        channel = f"{cluster.deployment.app_name}:v1:to:{instance_id}"
        redis.control("-x", "publish", channel, stdin=flood)
        await running.is_whole(complete=True)
    assert await metric(cluster.b, "bff_pubsub_restarts_total") > restarts


@pytest.mark.parametrize("kept", [True, False], ids=["with-its-data", "without-its-data"])
async def test_a_server_that_comes_back_is_filled_again_and_losses_are_announced(
    cluster: Cluster, redis: RedisServer, kept: bool
) -> None:
    async with flow(cluster) as running:
        redis.kill()
        if not kept:
            redis.wipe()
        assert all("Error" in reason for reason in await all_red(cluster))
        assert [await browser.answers() for browser in running.browsers] == [True, True]
        redis.start()
        await running.is_whole(complete=False)
        assert all(gaps(browser) for browser in running.browsers)
    assert await metric(cluster.b, "bff_gaps_total") > 0


@pytest.mark.parametrize("silent", ["from_server", "to_server"])
async def test_a_server_behind_a_link_that_goes_silent_is_noticed_and_loses_nothing(
    cluster: Cluster, redis: RedisServer, silent: str
) -> None:
    """No connection breaks, and everybody else still reaches it."""
    link = await Proxy(redis.port).start()
    url = f"redis://127.0.0.1:{link.port}/0"
    remote = cluster.deployment.serve("remote", REDIS_URL=url)
    await asyncio.to_thread(lambda: remote.port)  # the link needs this loop meanwhile
    await all_ready(remote)
    try:
        async with flow(Cluster(cluster.deployment, cluster.a, remote)) as running:
            link.hold(**{silent: True})
            assert await red(remote)
            assert await is_ready(cluster.a)
            assert await running.browsers[1].answers()
            await running.numbered.one_more()
            link.cut()
            link.release()
            await running.is_whole(complete=True)
        assert await metric(remote, "bff_pubsub_restarts_total") > 0
    finally:
        await asyncio.to_thread(remote.close)
        await link.stop()


async def test_under_sentinel_the_next_master_is_found_and_losses_are_announced(
    under_sentinel: Cluster, watched: RedisUnderSentinel
) -> None:
    async with flow(under_sentinel) as running:
        watched.master.kill()
        assert all("Error" in reason for reason in await all_red(under_sentinel))
        assert [await browser.answers() for browser in running.browsers] == [True, True]
        await running.is_whole(complete=False)
        assert all(gaps(browser) for browser in running.browsers)
    assert "role:master" in watched.replica.control("info", "replication")


@pytest.mark.parametrize("number", range(3))
async def test_in_a_cluster_a_node_that_was_away_is_missed_and_losses_are_announced(
    on_nodes: Cluster, nodes: RedisCluster, number: int
) -> None:
    node = nodes.servers[number]
    async with flow(on_nodes) as running:
        node.kill()
        assert all("Error" in reason for reason in await all_red(on_nodes))
        assert [await browser.answers() for browser in running.browsers] == [True, True]
        node.start()
        await until(nodes.is_whole, "the node is taken back", RECOVERY)
        await running.is_whole(complete=False)


async def test_in_a_cluster_nodes_that_throw_out_their_subscribers_lose_nothing(
    on_nodes: Cluster, nodes: RedisCluster
) -> None:
    async with flow(on_nodes) as running:
        for node in nodes.servers:
            node.control("client", "kill", "type", "pubsub")
            await running.numbered.one_more()
        await running.is_whole(complete=True)


async def test_a_password_that_is_wrong_is_named_and_when_it_is_right_all_is_well(
    project: InstalledProject, rabbitmq_server: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    redis = servers.secret_redis("the-right-one")
    try:
        address = urlsplit(redis.url).netloc
        deployment = Deployment(
            project, tmp_path_factory.mktemp("password"), AMQP_URL=rabbitmq_server.url
        )
        assert deployment.bff("migrate").returncode == 0
        try:
            wrong = deployment.serve("wrong", REDIS_URL=f"redis://:of-yesterday@{address}/0")
            absent = deployment.serve("absent", REDIS_URL=f"redis://{address}/0")
            assert "AuthenticationError" in await red(wrong)
            assert "Authentication" in await red(absent)
            assert "of-yesterday" not in wrong.output
            redis.control("config", "set", "requirepass", "of-yesterday")
            await all_ready(wrong)
            assert not await is_ready(absent)
        finally:
            deployment.close()
    finally:
        redis.remove()
