"""A session that ends, ends on every instance at once, and does not come back."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from tests import servers
from tests.baked import InstalledProject
from tests.chaos.proxy import Proxy
from tests.e2e.browser import Browser
from tests.e2e.conftest import Admin, Connect, Person
from tests.e2e.deployment import ORIGIN, Cluster, Deployment, start_cluster
from tests.e2e.events import event_stream
from tests.e2e.processes import Instance
from tests.e2e.waiting import until
from tests.servers import Server
from tests.servers.redis import RedisServer

SESSION_ENDED = 4505
PROBE = 0.5


def sign_in(deployment: Deployment, user_id: str) -> tuple[Person, str]:
    """A person with a session of their own, and its `sid`."""
    session_id = f"sid-{secrets.token_hex(4)}"
    return Person(user_id, deployment.token(user_id, "demo", sid=session_id)), session_id


async def revoke(admin: Admin, instance: Instance, path: str) -> None:
    response = await admin.http.post(f"{instance.url}/admin/{path}/revoke", headers=admin.headers)
    assert response.status_code == 204, response.text


async def ticket_of(http: httpx2.AsyncClient, instance: Instance, person: Person) -> str:
    headers = {"Authorization": f"Bearer {person.token}", "Origin": ORIGIN}
    response = await http.post(f"{instance.url}/auth/ticket", headers=headers)
    assert response.is_success, response.text
    ticket: str = response.json()["ticket"]
    return ticket


async def assert_refused(instance: Instance, http: httpx2.AsyncClient, person: Person) -> None:
    """Neither a socket nor a request comes in with this token."""
    browser = await Browser.open(instance, token=person.token)
    assert await browser.closed() == SESSION_ENDED
    for path in ("/events", "/admin/stats"):
        answer = await http.get(
            f"{instance.url}{path}", headers={"Authorization": f"Bearer {person.token}"}
        )
        assert answer.status_code == 401, path


async def test_exactly_the_sockets_and_streams_of_a_session_end_everywhere_within_a_second(
    cluster: Cluster, admin: Admin, connect: Connect, http: httpx2.AsyncClient
) -> None:
    user_id = f"ann-{secrets.token_hex(4)}"
    laptop, laptop_sid = sign_in(cluster.deployment, user_id)
    phone, _ = sign_in(cluster.deployment, user_id)
    both = (cluster.a, cluster.b)
    ended = [await connect(instance, laptop) for instance in both]
    others = [await connect(instance, phone) for instance in both]
    async with event_stream(http, f"{cluster.a.url}/events", laptop) as stream:
        await anext(stream)
        begin = time.monotonic()
        await revoke(admin, cluster.b, f"sessions/{laptop_sid}")
        assert [await browser.closed() for browser in ended] == [SESSION_ENDED] * 2
        frame = (await anext(stream)).frame
        assert time.monotonic() - begin < 1
    assert (frame["type"], frame["payload"]["code"]) == ("close", SESSION_ENDED)
    for browser in others:
        assert await browser.answers()
    await admin.fence(cluster.a, *others)


async def test_a_session_that_ended_does_not_come_back(
    cluster: Cluster, admin: Admin, connect: Connect, http: httpx2.AsyncClient
) -> None:
    person, session_id = sign_in(cluster.deployment, f"ben-{secrets.token_hex(4)}")
    tickets = [await ticket_of(http, cluster.a, person) for _ in range(2)]
    await revoke(admin, cluster.a, f"sessions/{session_id}")
    for instance, ticket in zip((cluster.a, cluster.b), tickets, strict=True):
        await assert_refused(instance, http, person)
        browser = await connect(instance, ticket=ticket, origin=ORIGIN, hello=False)
        assert await browser.closed() == SESSION_ENDED


async def test_a_user_who_was_signed_out_everywhere_can_sign_in_again(
    cluster: Cluster, admin: Admin, connect: Connect, http: httpx2.AsyncClient
) -> None:
    user_id = f"cleo-{secrets.token_hex(4)}"
    people = [sign_in(cluster.deployment, user_id)[0] for _ in range(2)]
    browsers = [
        await connect(instance, one)
        for instance, one in zip((cluster.a, cluster.b), people, strict=True)
    ]
    await revoke(admin, cluster.b, f"users/{user_id}")
    assert [await browser.closed() for browser in browsers] == [SESSION_ENDED] * 2
    await assert_refused(cluster.a, http, people[1])
    later = cluster.deployment.token(user_id, "demo", iat=int(time.time()) + 1)
    assert await (await connect(cluster.a, token=later)).answers()


async def test_the_identity_provider_ends_a_session_through_any_instance_within_a_second(
    cluster: Cluster, connect: Connect, http: httpx2.AsyncClient
) -> None:
    deployment = cluster.deployment
    user_id = f"dan-{secrets.token_hex(4)}"
    ended, session_id = sign_in(deployment, user_id)
    other, _ = sign_in(deployment, user_id)
    browsers = [await connect(cluster.a, one) for one in (ended, other)]
    logout = deployment.token(
        user_id,
        sid=session_id,
        jti=secrets.token_hex(8),
        events={"http://schemas.openid.net/event/backchannel-logout": {}},
    )
    url, form = f"{cluster.b.url}/auth/backchannel-logout", {"logout_token": logout}
    begin = time.monotonic()
    assert (await http.post(url, data=form)).status_code == 200
    assert await browsers[0].closed() == SESSION_ENDED
    assert time.monotonic() - begin < 1
    assert await browsers[1].answers()
    replayed = await http.post(url.replace(cluster.b.url, cluster.a.url), data=form)
    assert replayed.status_code == 400
    await assert_refused(cluster.a, http, ended)


# With a Redis of their own, which they break


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    server = servers.keeping_redis()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def own(
    project: InstalledProject,
    redis: RedisServer,
    rabbitmq_server: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    deployment = Deployment(
        project,
        tmp_path_factory.mktemp("session-ends"),
        REDIS_URL=redis.url,
        AMQP_URL=rabbitmq_server.url,
        PUBSUB_PROBE_SECONDS=str(PROBE),
        DRAIN_SECONDS="0",
    )
    try:
        yield start_cluster(deployment)
    finally:
        deployment.close()


@pytest.fixture
def own_admin(own: Cluster, http: httpx2.AsyncClient) -> Admin:
    return Admin(http, own.deployment.token("carol", "admin"))


@asynccontextmanager
async def started(deployment: Deployment, name: str, **settings: str) -> AsyncIterator[Instance]:
    instance = deployment.serve(name, **settings)
    try:
        await asyncio.to_thread(lambda: instance.port)
        await until(lambda: asyncio.to_thread(instance.is_ready), f"{name} is ready", 40)
        yield instance
    finally:
        await asyncio.to_thread(instance.close)


async def receives(http: httpx2.AsyncClient, instance: Instance) -> bool:
    """Whether it is subscribed to pub/sub, as its metrics say."""
    metrics = (await http.get(f"{instance.url}/metrics")).text
    return "\nbff_pubsub_subscribed 1.0\n" in metrics


async def test_an_end_during_a_stall_of_pubsub_is_applied_when_the_stall_is_over(
    own: Cluster, own_admin: Admin, redis: RedisServer
) -> None:
    ended, session_id = sign_in(own.deployment, "dora")
    other, _ = sign_in(own.deployment, "dora")
    link = await Proxy(redis.port).start()
    url = f"redis://127.0.0.1:{link.port}/0"
    try:
        async with started(own.deployment, "remote", REDIS_URL=url) as remote:
            browsers = [await Browser.open(remote, token=one.token) for one in (ended, other)]
            for browser in browsers:
                await browser.next_frame(0)
            assert await receives(own_admin.http, remote)
            link.hold(from_server=True)
            await revoke(own_admin, own.a, f"sessions/{session_id}")

            async def is_stalled() -> bool:
                return not await receives(own_admin.http, remote)

            await until(is_stalled, "pub/sub is stalled", 20)
            assert all(browser.is_open for browser in browsers)
            link.cut()
            link.release()
            assert await browsers[0].closed() == SESSION_ENDED
            assert await browsers[1].answers()
            await assert_refused(remote, own_admin.http, ended)
            await browsers[1].close()
    finally:
        await link.stop()


async def test_one_instance_that_lives_brings_the_ends_back_to_a_redis_that_lost_them(
    own: Cluster, own_admin: Admin, redis: RedisServer
) -> None:
    person, session_id = sign_in(own.deployment, "emil")
    signed_out, _ = sign_in(own.deployment, "fay")
    await revoke(own_admin, own.b, f"sessions/{session_id}")
    await revoke(own_admin, own.b, "users/fay")
    await asyncio.to_thread(own.b.close)
    redis.stop()
    redis.wipe()
    redis.start()
    await until(lambda: asyncio.to_thread(own.a.is_ready), "A is ready", 40)
    async with started(own.deployment, "late") as late:
        for instance in (own.a, late):
            for one in (person, signed_out):
                await assert_refused(instance, own_admin.http, one)
