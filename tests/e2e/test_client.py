"""`bff-client.js` when its instance dies, freezes or drains: it gets every message once."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.baked import InstalledProject
from tests.e2e.conftest import Admin, Person
from tests.e2e.deployment import Cluster, Deployment, start_cluster
from tests.e2e.processes import Instance, Program
from tests.e2e.waiting import until, until_true
from tests.node import needed_websocket_command
from tests.servers import Server

_SCRIPT = Path(__file__).with_name("services") / "page.mjs"
_TOPIC = "demo.news.tea"
_TOPICS = ("to-user", "to-all", _TOPIC)
_QUICK = {"pingTimeoutMs": 1_000, "connectTimeoutMs": 3_000, "backoffCapMs": 1_000}


class Page(Program):
    """A page that follows its user, everybody, and a topic."""

    @property
    def lines(self) -> list[dict[str, Any]]:
        whole = self.output.splitlines()
        return [json.loads(line) for line in whole if line.startswith("{") and line.endswith("}")]

    @property
    def is_ready(self) -> bool:
        return {"ready": True} in self.lines

    @property
    def states(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "state" in line]

    @property
    def gaps(self) -> list[str]:
        """The streams of all gaps that it received."""
        return [stream for line in self.lines for stream in line.get("gap", ())]

    def numbers(self, topic: str) -> list[int]:
        return [line["n"] for line in self.lines if line.get("topic") == topic]

    async def heard(self, n: int) -> None:
        """Wait until a number has come to the user, to everybody and to the topic."""
        for topic in _TOPICS:
            await until(lambda: n in self.numbers(topic), f"{n} is heard as {topic}")  # noqa: B023

    def is_on(self, instance: Instance) -> bool:
        last = self.states[-1]
        return (last["state"], last["instance"]) == ("open", instance.url)


class Sender:
    """Sends the same numbers to a user, to everybody and to a topic."""

    def __init__(self, admin: Admin, user: Person) -> None:
        self._admin = admin
        self._user = user

    async def send(self, instance: Instance, *numbers: int) -> None:
        for n in numbers:
            event = {"event": {"n": n}}
            to_user = event | {"audience": "users", "user_ids": [self._user.id]}
            await self._admin.broadcast(instance, "to-user", **to_user)
            await self._admin.broadcast(instance, "to-all", **event)
            answer = await self._admin.http.post(
                f"{instance.url}/demo/news/{_TOPIC}",
                json={"n": n},
                headers={"Authorization": f"Bearer {self._user.token}"},
            )
            assert answer.is_success, answer.text


@pytest.fixture(scope="module")
def started(
    project: InstalledProject,
    own_redis: Server,
    rabbitmq_server: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[list[Cluster]]:
    deployment = Deployment(
        project,
        tmp_path_factory.mktemp("client"),
        REDIS_URL=own_redis.url,
        AMQP_URL=rabbitmq_server.url,
        LEASE_SECONDS="3",
        LEASE_RENEWAL_SECONDS="0.5",
        PUBSUB_PROBE_SECONDS="0.5",
        DRAIN_SECONDS="4",
        PING_INTERVAL_SECONDS="1",
    )
    try:
        yield [start_cluster(deployment)]
    finally:
        deployment.close()


@pytest.fixture
def cluster(started: list[Cluster]) -> Cluster:
    """Both instances; one that has died is restarted."""
    started[0] = started[0].whole()
    return started[0]


@pytest.fixture
def transport() -> str:
    return "websocket"


@pytest.fixture
def page(cluster: Cluster, alice: Person, tmp_path: Path, transport: str) -> Iterator[Page]:
    """Somebody's page, first on A."""
    instances = tmp_path / "instances.json"
    instances.write_text(json.dumps([cluster.a.url, cluster.b.url]))
    page = Page(
        "page",
        [*needed_websocket_command(), str(_SCRIPT)],
        cwd=tmp_path,
        logs=tmp_path,
        variables={
            "CLIENT": str(cluster.deployment.project.path / "client" / "bff-client.js"),
            "INSTANCES": str(instances),
            "TOKEN": alice.token,
            "TOPICS": json.dumps([_TOPIC]),
            "OPTIONS": json.dumps(_QUICK),
            "TRANSPORT": transport,
        },
    )
    try:
        until_true(lambda: page.is_ready, "the page is connected and subscribed")
        yield page
    finally:
        page.close()


@pytest.fixture
def sender(admin: Admin, alice: Person) -> Sender:
    return Sender(admin, alice)


def _kill(instance: Instance) -> None:
    instance.signal(signal.SIGKILL)


def _freeze(instance: Instance) -> None:
    instance.signal(signal.SIGSTOP)


def _end(instance: Instance) -> None:
    instance.signal(signal.SIGTERM)


@pytest.mark.parametrize("transport", ["websocket", pytest.param("events", marks=pytest.mark.long)])
@pytest.mark.parametrize("lose", [_kill, _freeze, _end], ids=["killed", "frozen", "draining"])
async def test_when_its_instance_is_lost_it_gets_every_message_once_and_in_order(
    cluster: Cluster, page: Page, sender: Sender, lose: Callable[[Instance], None]
) -> None:
    assert page.is_on(cluster.a)
    await sender.send(cluster.b, 1, 2)
    lose(cluster.a)
    try:
        await sender.send(cluster.b, 3, 4)
        await until(lambda: page.is_on(cluster.b), "the page is on B")
        await sender.send(cluster.b, 5)
        await page.heard(5)
    finally:
        cluster.a.signal(signal.SIGCONT)
    if lose is not _freeze:
        await cluster.a.exited()
    assert [page.numbers(topic) for topic in _TOPICS] == [[1, 2, 3, 4, 5]] * 3
    assert page.gaps == []


async def test_when_redis_has_lost_its_data_every_stream_has_a_gap_and_continues(
    cluster: Cluster, page: Page, sender: Sender, own_redis: Server
) -> None:
    await sender.send(cluster.a, 1)
    await page.heard(1)
    own_redis.kill()
    own_redis.start()
    for instance in (cluster.a, cluster.b):
        await until(instance.is_ready, f"{instance.name} is ready again")
    await sender.send(cluster.a, 2)
    await page.heard(2)
    assert [page.numbers(topic) for topic in _TOPICS] == [[1, 2]] * 3
    assert sorted(set(page.gaps)) == ["all", f"topic:{_TOPIC}", "user"]
    assert len(page.gaps) == 3
