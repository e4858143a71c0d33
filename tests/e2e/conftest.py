"""Two instances on real servers, people with browsers, and a real nuropb service."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests import servers
from tests.baked import InstalledProject
from tests.e2e.browser import Browser
from tests.e2e.deployment import Cluster, Deployment, customised, start_cluster
from tests.e2e.processes import Instance, Program
from tests.e2e.waiting import until, until_true
from tests.servers import Server

_TAIL = 3000
_SERVICE = Path(__file__).with_name("services") / "nuropb_service.py"

Connect = Callable[..., Awaitable[Browser]]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the processes wrote when a test fails."""
    report = yield
    if report.failed:
        for program in Program.running:
            report.sections.append((f"output of {program.name}", program.output[-_TAIL:]))
    return report


@dataclass(frozen=True)
class Person:
    """A user with a token, whom no other test knows."""

    id: str
    token: str


class Admin:
    """Somebody with scope `admin`, at the HTTP interface of any instance."""

    def __init__(self, http: httpx2.AsyncClient, token: str) -> None:
        self.http = http
        self.headers = {"Authorization": f"Bearer {token}"}

    async def call(self, method: str, instance: Instance, path: str, **more: Any) -> Any:
        """The body of an answer that must be a good one. Waits when the rate limit says so."""
        url = f"{instance.url}/admin{path}"
        response = await self.http.request(method, url, headers=self.headers, **more)
        while response.status_code == httpx2.codes.TOO_MANY_REQUESTS:
            await asyncio.sleep(response.json()["retry_after_ms"] / 1000)
            response = await self.http.request(method, url, headers=self.headers, **more)
        assert response.is_success, f"{response.status_code} {response.text}"
        return response.json()

    async def broadcast(self, instance: Instance, topic: str, **more: Any) -> dict[str, Any]:
        """Send `{"text": "hi"}`, to all unless `more` names an audience; what was stored."""
        body = {"audience": "all", "topic": topic, "event": {"text": "hi"}} | more
        stored: dict[str, Any] = await self.call("POST", instance, "/broadcasts", json=body)
        return stored

    async def connections(self, instance: Instance, user_id: str) -> list[dict[str, Any]]:
        """What the index has of a user."""
        found: list[dict[str, Any]] = await self.call(
            "GET", instance, f"/users/{user_id}/connections"
        )
        return found

    async def stats(self, instance: Instance) -> dict[str, Any]:
        found: dict[str, Any] = await self.call("GET", instance, "/stats")
        return found

    async def fence(self, instance: Instance, *browsers: Browser) -> None:
        """Wait until whatever was sent to these browsers before has arrived.

        Redis and the instances keep the order: who has this message has all earlier ones.
        """
        topic = f"fence-{secrets.token_hex(4)}"
        await self.broadcast(instance, topic)
        for browser in browsers:
            await browser.event(topic)


@pytest.fixture(scope="session")
def project(
    installed: InstalledProject, tmp_path_factory: pytest.TempPathFactory
) -> InstalledProject:
    """The default project with one more feature, in a folder of its own."""
    return customised(installed, tmp_path_factory.mktemp("customised") / "my-bff")


@pytest.fixture(scope="session")
def cluster(
    project: InstalledProject,
    redis_server: Server,
    rabbitmq_server: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    """Instances A and B on one Redis, one RabbitMQ and one database, for all tests that break
    nothing."""
    deployment = Deployment(
        project,
        tmp_path_factory.mktemp("cluster"),
        REDIS_URL=redis_server.url,
        AMQP_URL=rabbitmq_server.url,
    )
    try:
        yield start_cluster(deployment)
    finally:
        deployment.close()


@pytest.fixture(scope="module")
def own_redis() -> Iterator[Server]:
    """For a module whose tests break it."""
    server = servers.private_redis()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def nuropb_service(
    cluster: Cluster,
    rabbitmq_server: Server,
    nuropb_python: Path | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Program]:
    """The real nuropb 0.1.8, answering as the service `demo`."""
    if nuropb_python is None:
        pytest.skip("needs the real nuropb 0.1.8, which runs on Python < 3.12 only")
    service = Program(
        "nuropb-service",
        [nuropb_python, _SERVICE, rabbitmq_server.url],
        cwd=_SERVICE.parent,
        logs=tmp_path_factory.mktemp("nuropb"),
        variables={},
    )
    try:
        until_true(lambda: "ready" in service.output.split(), "the nuropb service is on the mesh")
        yield service
    finally:
        service.close()


@pytest.fixture
def person(cluster: Cluster) -> Callable[..., Person]:
    """Make somebody new, with these scopes."""
    return person_of(cluster.deployment)


def person_of(deployment: Deployment) -> Callable[..., Person]:
    def make(name: str, *scopes: str) -> Person:
        user_id = f"{name}-{secrets.token_hex(4)}"
        return Person(user_id, deployment.token(user_id, *scopes))

    return make


@pytest.fixture
def alice(person: Callable[..., Person]) -> Person:
    return person("alice", "demo", "orders")


@pytest.fixture
def bob(person: Callable[..., Person]) -> Person:
    return person("bob", "demo")


@pytest.fixture
async def http() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(timeout=20, trust_env=False) as client:
        yield client


@pytest.fixture
def admin(cluster: Cluster, http: httpx2.AsyncClient) -> Admin:
    return Admin(http, cluster.deployment.token("carol", "admin"))


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Open a browser and wait for its first frame; all are closed in the end."""
    opened: list[Browser] = []

    async def connect(
        instance: Instance, person: Person | None = None, *, hello: bool = True, **how: Any
    ) -> Browser:
        if person is not None:
            how["token"] = person.token
        browser = await Browser.open(instance, **how)
        opened.append(browser)
        if hello:
            await browser.next_frame(0)
            assert browser.hello
        return browser

    yield connect
    for browser in opened:
        await browser.close()


@pytest.fixture
async def alices(cluster: Cluster, alice: Person, connect: Connect) -> list[Browser]:
    """A user's three sockets, spread over both instances."""
    return [await connect(instance, alice) for instance in (cluster.a, cluster.b, cluster.b)]


@pytest.fixture
async def bobs(cluster: Cluster, bob: Person, connect: Connect) -> Browser:
    """Another user's one socket."""
    return await connect(cluster.a, bob)


@pytest.fixture
async def neighbour(
    cluster: Cluster, person: Callable[..., Person], connect: Connect
) -> AsyncIterator[Browser]:
    """Another user on the same instance: still gets replies, and no messages of others."""
    browser = await connect(cluster.a, person("nora", "demo"))
    yield browser
    assert await browser.answers()
    assert [frame["type"] for frame in browser.frames] == ["event", "pong"]


@pytest.fixture
async def mallory(cluster: Cluster, person: Callable[..., Person], connect: Connect) -> Browser:
    """A browser that sends what it should not."""
    return await connect(cluster.a, person("mallory", "demo"))


async def until_connected(
    admin: Admin, instance: Instance, user_id: str, ids: set[str], seconds: float = 20
) -> None:
    """Wait until the index has exactly these connections of a user."""

    async def has_them() -> bool:
        found = await admin.connections(instance, user_id)
        return {facts["connection_id"] for facts in found} == ids

    await until(has_them, f"{instance.name} names {len(ids)} connections of {user_id}", seconds)
