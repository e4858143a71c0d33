"""Instances and servers die, freeze and come back; what is left serves on, and heals."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests import servers
from tests.baked import InstalledProject
from tests.e2e.browser import Browser, Frame
from tests.e2e.conftest import Admin, Connect, Person, until_connected
from tests.e2e.deployment import Cluster, Deployment, knows_both, start_cluster
from tests.e2e.events import event_stream
from tests.e2e.processes import Instance
from tests.e2e.services.plain import plain_service, publish
from tests.e2e.waiting import until, until_true
from tests.servers import Server, nginx
from tests.servers.server import answers, free_port

LEASE = 3.0
RENEWAL = 0.5
DRAIN = 4001
SERVER_ERROR = 4006


@pytest.fixture(scope="module")
def own_rabbitmq() -> Iterator[Server]:
    server = servers.private_rabbitmq()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def started(
    project: InstalledProject,
    own_redis: Server,
    own_rabbitmq: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[list[Cluster]]:
    """The cluster as the last test left it."""
    deployment = Deployment(
        project,
        tmp_path_factory.mktemp("faults"),
        REDIS_URL=own_redis.url,
        AMQP_URL=own_rabbitmq.url,
        LEASE_SECONDS=str(LEASE),
        LEASE_RENEWAL_SECONDS=str(RENEWAL),
        PUBSUB_PROBE_SECONDS="0.5",
    )
    try:
        yield [start_cluster(deployment)]
    finally:
        deployment.close()


@pytest.fixture
def cluster(started: list[Cluster]) -> Cluster:
    """This module's own cluster, complete: instances that have died are restarted."""
    started[0] = started[0].whole()
    return started[0]


async def test_readiness_names_each_dependency(cluster: Cluster, http: httpx2.AsyncClient) -> None:
    for instance in (cluster.a, cluster.b):
        response = await http.get(f"{instance.url}/health/ready")
        assert response.status_code == 200
        checks = response.json()["checks"]
        assert {"redis", "mesh", "database"} <= set(checks)
        assert all(check == {"ok": True, "reason": ""} for check in checks.values())
        assert (await http.get(f"{instance.url}/health/live")).json() == {"alive": True}


async def test_without_any_server_it_starts_and_reports_what_is_missing(
    cluster: Cluster, http: httpx2.AsyncClient
) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    alone = cluster.deployment.serve(
        "alone",
        REDIS_URL=f"redis://{nowhere}/0",
        AMQP_URL=f"amqp://guest:guest@{nowhere}/",
        DATABASE_URL=f"postgresql+asyncpg://nobody@{nowhere}/nothing",
    )
    until_true(lambda: "Application startup complete" in alone.output, "it has started")
    response = await http.get(f"{alone.url}/health/ready")
    assert response.status_code == 503
    checks = response.json()["checks"]
    for name in ("redis", "mesh", "database"):
        assert checks[name]["ok"] is False
        assert checks[name]["reason"]
    assert (await http.get(f"{alone.url}/health/live")).status_code == 200
    alone.close()


async def test_an_event_stream_goes_on_at_another_instance_when_its_own_is_killed(
    cluster: Cluster,
    admin: Admin,
    alice: Person,
    connect: Connect,
    http: httpx2.AsyncClient,
    tmp_path: Path,
) -> None:
    """Through nginx, which knows of no death: it asks, fails, and asks the next."""
    on_a = await connect(cluster.a, alice)
    configuration = cluster.deployment.project.read("deploy/nginx.conf")
    async with nginx.before(configuration, tmp_path, cluster.a.port, cluster.b.port) as address:
        url = f"http://{address}/events?topics=demo.news.sse"
        async with event_stream(http, url, alice) as events:
            hello = await anext(events)
            session_id = hello.frame["payload"]["event"]["session_id"]
            is_on_a = session_id.partition(".")[0] == on_a.connection_id.partition(".")[0]
            own, other = (cluster.a, cluster.b) if is_on_a else (cluster.b, cluster.a)
            await admin.broadcast(own, "seen", audience="users", user_ids=[alice.id])
            seen = await anext(events)
            own.signal(signal.SIGKILL)
            assert await own.exited() == -signal.SIGKILL
            with pytest.raises(httpx2.RemoteProtocolError):
                await anext(events)
        for topic in ("first", "second"):
            await admin.broadcast(other, topic, audience="users", user_ids=[alice.id])
        await admin.broadcast(other, "third")
        told = await http.post(
            f"{other.url}/demo/news/demo.news.sse",
            json={"n": 4},
            headers={"Authorization": f"Bearer {alice.token}"},
        )
        assert told.is_success, told.text
        async with event_stream(http, url, alice, seen.id) as events:
            hello = await anext(events)
            recovered = hello.frame["payload"]["event"]["recovered"]
            assert recovered == {"user": True, "all": True, "topic:demo.news.sse": True}
            missed = [(await anext(events)).frame["payload"] for _ in range(4)]
            topics = [event["topic"] for event in missed]
            assert sorted(topics) == ["demo.news.sse", "first", "second", "third"]
            assert topics.index("first") < topics.index("second")
            await admin.broadcast(other, "live")
            assert (await anext(events)).frame["payload"]["topic"] == "live"


async def test_of_a_killed_instance_nothing_is_left_after_its_lease(
    cluster: Cluster, admin: Admin, alice: Person, alices: list[Browser], connect: Connect
) -> None:
    survivor, *lost = alices
    cluster.b.signal(signal.SIGKILL)
    killed_at = time.monotonic()
    assert await cluster.b.exited() == -signal.SIGKILL
    assert [await browser.closed() for browser in lost] == [1006, 1006]
    await until_connected(admin, cluster.a, alice.id, {survivor.connection_id})
    assert time.monotonic() - killed_at < LEASE + RENEWAL + 3
    (instance,) = (await admin.stats(cluster.a))["instances"]
    assert survivor.connection_id.startswith(instance["instance"])

    stored = await admin.broadcast(cluster.a, "after", audience="users", user_ids=[alice.id])
    assert stored["addressed"] == 1
    assert (await survivor.event("after"))["id"] == stored["message_ids"][0]
    assert await (await connect(cluster.a, alice)).answers()


async def test_an_instance_frozen_for_longer_than_its_lease_is_whole_again(
    cluster: Cluster,
    admin: Admin,
    http: httpx2.AsyncClient,
    alice: Person,
    alices: list[Browser],
    bobs: Browser,
) -> None:
    awake, *frozen = alices
    ids = {browser.connection_id for browser in alices}
    cluster.b.signal(signal.SIGSTOP)
    await until_connected(admin, cluster.a, alice.id, {awake.connection_id})
    assert len((await admin.stats(cluster.a))["instances"]) == 1

    cluster.b.signal(signal.SIGCONT)
    await until_connected(admin, cluster.a, alice.id, ids)
    await until(cluster.b.is_ready, "B is ready again")
    assert [await browser.answers() for browser in frozen] == [True, True]
    for number, sender in enumerate((cluster.a, cluster.b)):
        topic = f"again-{number}"
        stored = await admin.broadcast(sender, topic, audience="users", user_ids=[alice.id])
        assert stored["addressed"] == 3
        await admin.fence(sender, *alices, bobs)
        assert [len(browser.events(topic)) for browser in (*alices, bobs)] == [1, 1, 1, 0]
    lost = (await http.get(f"{cluster.b.url}/metrics")).text
    assert "bff_lease_losses_total 1.0" in lost


async def test_an_instance_that_gets_sigterm_drains_and_exits(
    cluster: Cluster, admin: Admin, alice: Person, alices: list[Browser], bobs: Browser
) -> None:
    stays, *leave = alices
    cluster.b.signal(signal.SIGTERM)
    assert [await browser.closed() for browser in leave] == [DRAIN, DRAIN]
    for browser in leave:
        assert browser.frames[-1]["type"] == "drain"
        assert browser.frames[-1]["payload"]["reconnect_after_ms"] >= 0
    assert await cluster.b.exited() in (0, -signal.SIGTERM)
    assert "Finished server process" in cluster.b.output
    assert "Traceback" not in cluster.b.output
    found = await admin.connections(cluster.a, alice.id)
    assert [facts["connection_id"] for facts in found] == [stays.connection_id]
    assert len((await admin.stats(cluster.a))["instances"]) == 1
    assert await stays.answers()
    assert await bobs.answers()


async def test_while_redis_is_away_sockets_stay_and_afterwards_delivery_is_back(
    cluster: Cluster,
    own_redis: Server,
    own_rabbitmq: Server,
    admin: Admin,
    http: httpx2.AsyncClient,
    alice: Person,
    alices: list[Browser],
    bobs: Browser,
    connect: Connect,
) -> None:
    everybody = (*alices, bobs)
    own_redis.stop()
    try:
        for instance in (cluster.a, cluster.b):
            reason = await _until_red(instance, "redis")
            assert "Error" in reason
        assert [await browser.answers() for browser in everybody] == [True] * 4
        async with plain_service(own_rabbitmq.url, "demo"):
            assert (await alices[0].ask("demo", "echo", {"n": 1}))["result"] == {"n": 1}
        newcomer = await connect(cluster.a, alice, hello=False)
        assert await newcomer.closed() == SERVER_ERROR
        refused = await http.post(
            f"{cluster.a.url}/admin/broadcasts",
            json={"audience": "all", "topic": "lost", "event": {}},
            headers=admin.headers,
        )
        assert (refused.status_code, refused.json()["code"]) == (503, "service_unavailable")
    finally:
        own_redis.start()
    await _until_whole(cluster, admin, alice, alices)
    stored = await admin.broadcast(cluster.b, "back", audience="users", user_ids=[alice.id])
    assert stored["addressed"] == 3
    await admin.fence(cluster.a, *everybody)
    assert [len(browser.events("back")) for browser in everybody] == [1, 1, 1, 0]


async def test_after_a_wipe_of_redis_the_index_is_rewritten_and_clients_get_a_gap(
    cluster: Cluster,
    own_redis: Server,
    admin: Admin,
    alice: Person,
    alices: list[Browser],
    bobs: Browser,
) -> None:
    """Nothing disconnects: only leases, positions and messages are gone."""
    await admin.broadcast(cluster.a, "before", audience="users", user_ids=[alice.id])
    old = [(await browser.event("before"))["id"] for browser in alices]
    assert answers(urlsplit(own_redis.url).port or 0, b"FLUSHALL\r\n", b"+OK")

    await _until_whole(cluster, admin, alice, alices)
    await until(lambda: knows_both(cluster.deployment, cluster.b), "both have a lease again")
    told = [await browser.frame(_tells_of_users_gap) for browser in alices]
    epochs = {gap["payload"]["streams"]["user"].split("/")[1] for gap in told}
    assert epochs.isdisjoint(identity.split("/")[1] for identity in old)
    stored = await admin.broadcast(cluster.a, "after", audience="users", user_ids=[alice.id])
    assert stored["addressed"] == 3
    await admin.fence(cluster.b, *alices, bobs)
    for browser in alices:
        assert [message["id"] for message in browser.events("after")] == stored["message_ids"]
    assert {stored["message_ids"][0].split("/")[1]} == epochs
    assert bobs.events("after") == []


async def test_an_instance_goes_in_time_although_redis_is_frozen(
    cluster: Cluster, own_redis: Server, alices: list[Browser]
) -> None:
    _, *leave = alices
    own_redis.pause()
    try:
        cluster.b.signal(signal.SIGTERM)
        assert [await browser.closed() for browser in leave] == [DRAIN, DRAIN]
        assert await cluster.b.exited(25) == -signal.SIGTERM
    finally:
        own_redis.resume()
    assert "Traceback" not in cluster.b.output


async def test_a_frozen_redis_is_noticed_too(
    cluster: Cluster, own_redis: Server, admin: Admin, alice: Person, alices: list[Browser]
) -> None:
    """No connection breaks: only the pub/sub listener's probe detects it."""
    own_redis.pause()
    try:
        await _until_red(cluster.b, "redis")
        assert [await browser.answers() for browser in alices] == [True] * 3
    finally:
        own_redis.resume()
    await _until_whole(cluster, admin, alice, alices)
    await admin.broadcast(cluster.a, "thawed", audience="users", user_ids=[alice.id])
    await admin.fence(cluster.b, *alices)
    assert [len(browser.events("thawed")) for browser in alices] == [1, 1, 1]


async def test_while_rabbitmq_is_away_calls_fail_and_afterwards_they_work(
    cluster: Cluster,
    own_rabbitmq: Server,
    admin: Admin,
    alice: Person,
    alices: list[Browser],
    bobs: Browser,
) -> None:
    async with plain_service(own_rabbitmq.url, "demo"):
        assert (await bobs.ask("demo", "echo", {"n": 1}))["result"] == {"n": 1}
        await bobs.say(
            "request",
            service="demo",
            method="slow",
            params={"seconds": 600},
            trace_id="in-flight",
            timeout_ms=30_000,
        )
        await bobs.ask("demo", "echo")
        own_rabbitmq.kill()
    try:
        error = (await bobs.response("in-flight"))["error"]
        assert (error["code"], error["outcome"]) == ("mesh_unavailable", "unknown")
        for instance in (cluster.a, cluster.b):
            assert await _until_red(instance, "mesh")
        meanwhile = (await bobs.ask("demo", "echo", timeout_ms=500))["error"]
        assert (meanwhile["code"], meanwhile["outcome"]) == ("mesh_unavailable", "not_sent")
        assert meanwhile["retryable"] is True
        await admin.broadcast(cluster.a, "meanwhile", audience="users", user_ids=[alice.id])
        for browser in alices:
            await browser.event("meanwhile")
    finally:
        own_rabbitmq.start()
    for instance in (cluster.a, cluster.b):
        await until(instance.is_ready, f"{instance.name} is on the mesh again", 60)
    async with plain_service(own_rabbitmq.url, "demo"):
        for browser in (*alices, bobs):
            assert (await browser.ask("demo", "echo", {"n": 2}))["result"] == {"n": 2}
    event = {"user_id": alice.id, "text": "after the restart"}
    await publish(own_rabbitmq.url, "demo.9.happened", event)
    for browser in alices:
        assert (await browser.event("demo.happened"))["event"] == event
    await admin.fence(cluster.b, *alices, bobs)
    assert [len(browser.events("demo.happened")) for browser in (*alices, bobs)] == [1, 1, 1, 0]


def _tells_of_users_gap(frame: Frame) -> bool:
    return frame["type"] == "gap" and "user" in frame["payload"]["streams"]


async def _until_red(instance: Instance, name: str) -> str:
    """Wait until readiness fails because of one dependency, and of no other; returns why."""
    await until(lambda: not instance.readiness()["ready"], f"{instance.name} is red", 30)
    checks = instance.readiness()["checks"]
    assert [other for other, check in checks.items() if not check["ok"]] == [name]
    reason: str = checks[name]["reason"]
    return reason


async def _until_whole(
    cluster: Cluster, admin: Admin, person: Person, browsers: list[Browser]
) -> None:
    """Wait until both instances are ready and the index names all of these again."""
    for instance in (cluster.a, cluster.b):
        await until(instance.is_ready, f"{instance.name} is ready again", 30)
    ids = {browser.connection_id for browser in browsers}
    await until_connected(admin, cluster.a, person.id, ids, 30)
