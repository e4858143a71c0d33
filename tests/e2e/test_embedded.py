"""Every way to run it: embedded, under plain uvicorn, in several workers; and what is refused."""

from __future__ import annotations

import os
import re
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.baked import InstalledProject
from tests.e2e.browser import Browser
from tests.e2e.conftest import Admin, Connect, Person, person_of, until_connected
from tests.e2e.deployment import ORIGIN, Deployment
from tests.e2e.processes import Instance
from tests.servers import Server
from tests.servers.server import free_port

EMBEDDED = {
    "ENVIRONMENT": "development",
    "REDIS_URL": "memory://",
    "AMQP_URL": "memory://",
}
DRAIN = 4001


@pytest.fixture
def embedded(project: InstalledProject, tmp_path: Path) -> Iterator[Deployment]:
    """As `make dev` runs it: no server anywhere."""
    deployment = Deployment(project, tmp_path, **EMBEDDED)
    yield deployment
    deployment.close()


@pytest.fixture
def deployment(
    project: InstalledProject, redis_server: Server, rabbitmq_server: Server, tmp_path: Path
) -> Iterator[Deployment]:
    """On real servers, with nothing started."""
    urls = {"REDIS_URL": redis_server.url, "AMQP_URL": rabbitmq_server.url}
    deployment = Deployment(project, tmp_path, **urls)
    yield deployment
    deployment.close()


async def test_bff_dev_answers_a_request_and_delivers_its_event(
    embedded: Deployment, http: httpx2.AsyncClient, connect: Connect
) -> None:
    instance = embedded.start("dev", [embedded.project.bff, "dev", "--no-reload", "--port", "0"])
    instance.until_ready()
    await _orders_work(instance, embedded, connect)
    page = await http.get(f"{instance.url}/")
    assert page.headers["content-type"].startswith("text/html")
    made = await http.post(f"{instance.url}/dev/token", json={"user": "eve", "scopes": ["admin"]})
    admin = Admin(http, made.json()["token"])
    assert (await admin.broadcast(instance, "news"))["created_by"] == "eve"

    begun = time.monotonic()
    instance.signal(signal.SIGINT)
    assert await instance.exited() in (0, 130, -signal.SIGINT)
    assert time.monotonic() - begun < 10
    assert "Traceback" not in instance.output


async def _connections(instance: Instance, http: httpx2.AsyncClient) -> float:
    """The number of connections in the instance's metrics."""
    metrics = (await http.get(f"{instance.url}/metrics")).text
    found = re.search(r"^bff_connections (\S+)$", metrics, re.MULTILINE)
    assert found is not None
    return float(found[1])


async def test_uvicorn_runs_it_too(embedded: Deployment, connect: Connect) -> None:
    factory = ["-m", "uvicorn", "--factory", "app.main:create_app", "--port", "0"]
    instance = embedded.start("uvicorn", [embedded.project.python, *factory])
    instance.until_ready()
    browser = await _orders_work(instance, embedded, connect)
    instance.signal(signal.SIGTERM)
    assert await browser.closed() == DRAIN
    assert await instance.exited() in (0, -signal.SIGTERM)


async def test_it_accepts_more_connections_than_the_soft_limit_of_open_files(
    embedded: Deployment, connect: Connect
) -> None:
    serve = 'ulimit -S -n 64; exec "$0" serve --port 0'
    command = ["bash", "-c", serve, str(embedded.project.bff)]
    instance = embedded.start("limited", command, MAX_CONNECTIONS_PER_USER="100")
    instance.until_ready()
    alice = person_of(embedded)("alice")
    browsers = [await connect(instance, alice) for _ in range(80)]
    assert await browsers[-1].answers()


@pytest.mark.long
async def test_two_workers_share_the_sockets_of_one_port(
    deployment: Deployment, http: httpx2.AsyncClient, connect: Connect
) -> None:
    assert deployment.bff("migrate").returncode == 0
    instance = deployment.serve("workers", "--workers", "2", MAX_CONNECTIONS_PER_USER="200")
    await instance.started(2)
    admin = Admin(http, deployment.token("carol", "admin"))
    alice = person_of(deployment)("alice")
    browsers: list[Browser] = []
    while len({browser.connection_id.partition(".")[0] for browser in browsers}) < 2:
        assert len(browsers) < 100, "one worker gets all the sockets"
        browsers.append(await connect(instance, alice))
    ids = {browser.connection_id for browser in browsers}
    await until_connected(admin, instance, alice.id, ids)
    stored = await admin.broadcast(instance, "both", audience="users", user_ids=[alice.id])
    assert stored["addressed"] == len(browsers)
    await admin.fence(instance, *browsers)
    assert [len(browser.events("both")) for browser in browsers] == [1] * len(browsers)
    assert await _connections(instance, http) == len(browsers)

    instance.signal(signal.SIGTERM)
    assert {await browser.closed() for browser in browsers} == {DRAIN}
    assert await instance.exited() in (0, -signal.SIGTERM)


@pytest.mark.long
async def test_workers_that_start_slowly_are_not_killed(
    deployment: Deployment, tmp_path: Path
) -> None:
    """As on a machine that is busy: uvicorn alone gives them five seconds to import the app."""
    slow = "import sys, time\nif '--multiprocessing-fork' in sys.argv: time.sleep(7)\n"
    (tmp_path / "sitecustomize.py").write_text(slow)
    path = f"{tmp_path}:{deployment.settings['PYTHONPATH']}"
    instance = deployment.serve("slow", "--workers", "2", PYTHONPATH=path)
    await instance.started(2)
    assert "died" not in instance.output


@pytest.mark.long
async def test_workers_that_are_killed_are_replaced_and_their_sockets_no_longer_counted(
    deployment: Deployment, http: httpx2.AsyncClient, connect: Connect
) -> None:
    instance = deployment.serve("killed", "--workers", "2")
    await instance.started(2)
    alice = person_of(deployment)("alice")
    browsers = [await connect(instance, alice) for _ in range(4)]
    assert await _connections(instance, http) == len(browsers)
    for worker in instance.workers():
        os.kill(worker, signal.SIGKILL)
    await instance.started(4)
    await connect(instance, alice)
    assert await _connections(instance, http) == 1


def test_doctor_reports_what_is_wrong(deployment: Deployment) -> None:
    sick = deployment.bff("doctor")
    assert sick.returncode == 1
    assert _bad(sick.stdout) == [
        "database schema: the engine's revisions are not applied: run `bff migrate`"
    ]

    assert deployment.bff("migrate").returncode == 0
    healthy = deployment.bff("doctor")
    assert healthy.returncode == 0, healthy.stdout
    assert _bad(healthy.stdout) == []
    assert "browsers may call demo.add, scopes: demo" in healthy.stdout
    assert "browsers may call orders.list, scopes: orders" in healthy.stdout
    assert deployment.secret not in healthy.stdout

    nowhere = f"127.0.0.1:{free_port()}"
    alone = deployment.bff(
        "doctor",
        REDIS_URL=f"redis://{nowhere}/0",
        AMQP_URL=f"amqp://guest:guest@{nowhere}/",
        ALLOWED_ORIGINS="",
    )
    assert alone.returncode == 1
    redis, mesh, origins = _bad(alone.stdout)
    assert redis.startswith("Redis:")
    assert mesh.startswith("mesh:")
    assert "ALLOWED_ORIGINS" in origins


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "weak secret": ({"JWT_SECRET": "change-me"}, "JWT_SECRET is weak"),
    "long but monotonous secret": ({"JWT_SECRET": "a" * 64}, "JWT_SECRET is weak"),
    "no secret": ({"JWT_SECRET": ""}, "JWKS_URL or OIDC_ISSUER"),
    "embedded Redis": ({"REDIS_URL": "memory://"}, "memory://"),
    "embedded mesh": ({"AMQP_URL": "memory://"}, "memory://"),
    "no origin": ({"ALLOWED_ORIGINS": "*"}, "ALLOWED_ORIGINS"),
    "unknown Redis": ({"REDIS_URL": "http://host"}, "REDIS_URL: must begin with redis://"),
    "unknown mesh": ({"AMQP_URL": "host"}, "AMQP_URL: must begin with amqp://"),
    "unknown database": ({"DATABASE_URL": "host"}, "DATABASE_URL: must begin with sqlite"),
    "impossible lease": ({"LEASE_SECONDS": "1", "LEASE_RENEWAL_SECONDS": "1"}, "LEASE_SECONDS"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_production_refuses_unsafe_settings_with_a_message(
    deployment: Deployment, name: str
) -> None:
    settings, words = REFUSED[name]
    refused = deployment.bff("serve", "--port", "0", **settings)
    assert refused.returncode == 2
    assert words in refused.stdout
    assert "Traceback" not in refused.stdout
    assert len(refused.stdout.splitlines()) <= 3
    assert "a" * 64 not in refused.stdout


def test_embedded_engines_need_a_single_worker(embedded: Deployment) -> None:
    refused = embedded.bff("serve", "--workers", "2", "--port", "0")
    assert refused.returncode == 2
    assert "memory://" in refused.stdout
    assert "Traceback" not in refused.stdout


async def test_no_token_ticket_cookie_or_body_is_ever_logged(
    deployment: Deployment, http: httpx2.AsyncClient, connect: Connect
) -> None:
    """At the most talkative level, with every credential that there is, good and bad."""
    assert deployment.bff("migrate").returncode == 0
    instance = deployment.serve("talkative", LOG_LEVEL="DEBUG")
    instance.until_ready()
    ada = person_of(deployment)("ada", "demo", "orders", "admin")
    bearer = {"Authorization": f"Bearer {ada.token}"}

    def canary(what: str) -> str:
        deployment.canaries.append(f"canary-{what}-{secrets.token_hex(8)}")
        return deployment.canaries[-1]

    browser = await connect(instance, ada)
    await connect(instance, cookie=ada.token, origin=ORIGIN)
    ticket = (await http.post(f"{instance.url}/auth/ticket", headers=bearer)).json()["ticket"]
    deployment.canaries.append(ticket)
    await connect(instance, ticket=ticket)
    for refused in (
        {"ticket": ticket},
        {"ticket": canary("ticket")},
        {"token": canary("header")},
        {"token": deployment.token("ada", lifetime=-60)},
        {"cookie": canary("cookie"), "origin": ORIGIN},
        {"query": f"token={canary('query')}"},
    ):
        await (await connect(instance, hello=False, **refused)).closed()

    await browser.answered("authenticate", token=deployment.token("ada-other"))
    await browser.answered("authenticate", token=deployment.token(ada.id))
    await browser.answered("authenticate", token=canary("frame"))
    await browser.ask("undeployed", "anything", {"password": canary("params")})
    await browser.ask("demo", "whisper", {"to": ada.id, "wrong": canary("wrong-params")})
    await browser.send(canary("no-json"))
    await browser.send(f'{{"type": "{canary("type")}"}}')
    for url in (f"/orders?token={canary('address')}", f"/nowhere?ticket={canary('lost')}"):
        await http.get(f"{instance.url}{url}", headers={"Cookie": f"Authorization={canary('c')}"})
    await http.post(f"{instance.url}/rpc/demo/add", json={"x": canary("rpc")}, headers=bearer)
    await Admin(http, ada.token).broadcast(instance, "n", event={"text": canary("broadcast")})
    await browser.event("n")

    instance.close()
    assert "token refused" in instance.output
    deployment.assert_logs_are_clean()


async def _orders_work(instance: Instance, deployment: Deployment, connect: Connect) -> Browser:
    """The example service answers, and its event reaches the socket of who ordered."""
    alice: Person = person_of(deployment)("alice", "orders")
    browser = await connect(instance, alice)
    stranger = await connect(instance, person_of(deployment)("bob", "orders"))
    placed: dict[str, Any] = await browser.ask("orders", "place", {"item": "tea", "quantity": 2})
    assert placed["error"] is None
    order = placed["result"]
    assert (order["item"], order["quantity"], order["user_id"]) == ("tea", 2, alice.id)
    assert (await browser.event("order.updated"))["event"] == order
    assert (await browser.ask("orders", "list"))["result"] == {"orders": [order]}
    assert (await stranger.ask("orders", "list"))["result"] == {"orders": []}
    assert stranger.events("order.updated") == []
    return browser


def _bad(report: str) -> list[str]:
    """What the doctor marks."""
    return [line.removeprefix("BAD ").strip() for line in report.splitlines() if line[:3] == "BAD"]
