"""What only the broker's own command line can do to the mesh: one BFF, a RabbitMQ of its own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import pytest

from tests import servers
from tests.baked import InstalledProject
from tests.e2e.browser import Browser
from tests.e2e.deployment import Deployment
from tests.e2e.processes import Instance
from tests.e2e.services.plain import plain_service, publish
from tests.e2e.waiting import until, until_true
from tests.servers import Server

RECOVERY = 60.0


@pytest.fixture(scope="module")
def broker() -> Iterator[Server]:
    server = servers.private_rabbitmq()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def deployment(
    project: InstalledProject,
    redis_server: Server,
    broker: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("trouble")
    made = Deployment(project, folder, REDIS_URL=redis_server.url, AMQP_URL=broker.url)
    assert made.bff("migrate").returncode == 0
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def bff(deployment: Deployment) -> Iterator[Instance]:
    instance = deployment.serve("bff")
    instance.until_ready()
    yield instance
    instance.close()


async def control(broker: Server, *words: str) -> None:
    """The broker's own command line, which takes seconds: browsers go on answering pings."""
    await asyncio.to_thread(broker.control, *words)


@asynccontextmanager
async def browser(
    bff: Instance, deployment: Deployment, query: str | None = None
) -> AsyncIterator[Browser]:
    opened = await Browser.open(bff, token=deployment.token("alice", "demo"), query=query)
    await opened.next_frame(0)
    yield opened
    await opened.close()


async def _answers(alice: Browser) -> bool:
    return (await alice.ask("demo", "echo", {"n": 1}, timeout_ms=2000))["error"] is None


async def test_connections_closed_by_the_operator_are_reopened(
    bff: Instance, deployment: Deployment, broker: Server
) -> None:
    async with plain_service(broker.url, "demo"), browser(bff, deployment) as alice:
        assert await _answers(alice)
        await alice.say(
            "request",
            service="demo",
            method="slow",
            params={"seconds": 600},
            trace_id="in-flight",
            timeout_ms=30_000,
        )
        assert await _answers(alice)
        await control(broker, "close_all_connections", "maintenance")
        error = (await alice.response("in-flight"))["error"]
        assert (error["code"], error["outcome"]) == ("mesh_unavailable", "unknown")
        assert error["retryable"] is False
    async with plain_service(broker.url, "demo"), browser(bff, deployment) as alice:
        await until(lambda: _answers(alice), "calls are answered again", RECOVERY)
    assert "Traceback" not in bff.output


async def test_a_memory_alarm_holds_up_no_call_and_loses_no_reply(
    bff: Instance, deployment: Deployment, broker: Server
) -> None:
    """RabbitMQ stops reading from who publishes. What it has taken is still answered."""
    async with plain_service(broker.url, "demo"), browser(bff, deployment) as alice:
        assert await _answers(alice)
        await control(broker, "set_vm_memory_high_watermark", "0.00001")
        try:
            error = (await alice.ask("demo", "echo", timeout_ms=1000))["error"]
            assert error["code"] in ("timeout", "mesh_unavailable")
            assert error["retryable"] is (error["outcome"] == "not_sent")
            await until(lambda: not bff.is_ready(), "it is not ready", RECOVERY)
            reason = bff.readiness()["checks"]["mesh"]["reason"]
            assert reason == "RabbitMQ blocks publishing"
            later = (await alice.ask("demo", "echo", timeout_ms=500))["error"]
            assert (later["code"], later["outcome"]) == ("mesh_unavailable", "not_sent")
        finally:
            await control(broker, "set_vm_memory_high_watermark", "0.4")
        await until(bff.is_ready, "it is ready again", RECOVERY)
        await until(lambda: _answers(alice), "calls are answered again", RECOVERY)


@pytest.mark.long
async def test_it_waits_for_a_vhost_that_is_not_there_yet(
    deployment: Deployment, broker: Server
) -> None:
    url = f"{broker.url}later"
    early = deployment.serve("early", AMQP_URL=url)
    until_true(lambda: "Application startup complete" in early.output, "it has started")
    until_true(lambda: "vhost 'later'" in _reason(early), "it says what is missing")
    doctor = deployment.bff("doctor", AMQP_URL=url)
    assert doctor.returncode == 1
    assert "vhost 'later'" in doctor.stdout
    broker.control("add_vhost", "later")
    broker.control("set_permissions", "-p", "later", "guest", ".*", ".*", ".*")
    await until(early.is_ready, "it is on the new vhost", RECOVERY)
    early.close()


@pytest.mark.long
async def test_it_waits_until_its_password_is_right(deployment: Deployment, broker: Server) -> None:
    broker.control("add_user", "bff", "old")
    broker.control("set_permissions", "bff", ".*", ".*", ".*")
    password = "n3w-passw0rd"
    url = broker.url.replace("guest:guest", f"bff:{quote(password)}")
    early = deployment.serve("early", AMQP_URL=url)
    until_true(lambda: "ACCESS_REFUSED" in _reason(early), "it says that it is refused")
    doctor = deployment.bff("doctor", AMQP_URL=url)
    assert "ACCESS_REFUSED" in doctor.stdout
    broker.control("change_password", "bff", password)
    await until(early.is_ready, "it is let in", RECOVERY)
    early.close()
    assert password not in early.output + doctor.stdout


async def test_events_wait_for_the_bff_through_a_restart_of_the_broker_and_come_in_order(
    deployment: Deployment, broker: Server, bff: Instance
) -> None:
    """NuroPb publishes events without persistence; the handler's queue keeps them anyway."""
    async with browser(bff, deployment) as alice:
        since = alice.hello["positions"]["user"]
    bff.signal(signal.SIGTERM)
    await bff.exited()
    for number in range(20):
        await publish(broker.url, "demo.9.happened", {"user_id": "alice", "number": number})
    broker.restart()
    again = deployment.serve("again")
    again.until_ready()
    async with browser(again, deployment, query=f"since={quote(since)}") as alice:
        await until(
            lambda: len(alice.events("demo.happened")) >= 20, "all events have come", RECOVERY
        )
        events = alice.events("demo.happened")
    assert [event["event"]["number"] for event in events] == list(range(20))
    assert len({event["id"] for event in events}) == 20
    again.close()


async def test_an_event_that_names_its_publisher_can_become_a_dead_letter(
    bff: Instance, deployment: Deployment, broker: Server
) -> None:
    """RabbitMQ refuses a message that names another user than the one that publishes it."""
    await control(broker, "add_user", "demo", "secret")
    await control(broker, "set_permissions", "demo", ".*", ".*", ".*")
    url = broker.url.replace("guest:guest", "demo:secret")
    await publish(url, "demo.9.happened", {"no": "user"}, user_id="demo")
    queue = f"{deployment.app_name}.dead-letters.v1"

    async def arrived() -> bool:
        listed = await asyncio.to_thread(
            broker.control, "list_queues", "--no-table-headers", "name", "messages"
        )
        return f"{queue}\t1" in listed

    await until(arrived, "it is among the dead letters", RECOVERY)


def test_every_queue_on_the_broker_is_exclusive_or_durable(
    bff: Instance, deployment: Deployment, broker: Server
) -> None:
    """RabbitMQ 4.3 refuses others. This is what the broker itself has of a running BFF."""
    listed = broker.control("list_queues", "--no-table-headers", "name", "durable", "exclusive")
    queues = {name: facts for name, *facts in map(str.split, listed.splitlines())}
    assert any(name.startswith("amq.gen-") for name in queues), "the reply queue"
    name = deployment.app_name
    assert {f"nuropb-{name}-sq", f"{name}.dead-letters.v1"} <= set(queues)
    assert [queue for queue, facts in queues.items() if "true" not in facts] == []


def _reason(instance: Instance) -> str:
    reason: str = instance.readiness()["checks"]["mesh"]["reason"]
    return reason
