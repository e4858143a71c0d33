"""A BFF with no more rights in Redis, RabbitMQ and PostgreSQL than `deploy/` gives it."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from redis.asyncio import Redis
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import create_async_engine

from tests import servers
from tests.baked import InstalledProject
from tests.e2e.conftest import Admin, Connect, Person, person_of
from tests.e2e.deployment import Deployment
from tests.e2e.processes import Instance, Program
from tests.e2e.waiting import until
from tests.servers import Server
from tests.servers.postgres import PostgresServer
from tests.servers.rabbitmq import RabbitmqServer

NAME = "my-bff"
"""The slug of the project, and so its APP_NAME and the name of its users."""
PASSWORD = "p-" + secrets.token_hex(16)


@pytest.fixture(scope="module")
def redis_url(project: InstalledProject, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis with the project's ACL file, its placeholders replaced."""
    rules = project.read("deploy/redis-acl.conf")
    assert rules.count("#SHA256-") == 2
    for placeholder in ("#SHA256-OF-THE-ADMIN-PASSWORD", "#SHA256-OF-THE-PASSWORD"):
        digest = hashlib.sha256(PASSWORD.encode()).hexdigest()
        rules = rules.replace(placeholder, f"#{digest}")
    file = tmp_path_factory.mktemp("redis") / "users.acl"
    file.write_text(rules)
    server = servers.redis_with_users(file)
    yield f"redis://{NAME}:{PASSWORD}@127.0.0.1:{server.port}/0"
    server.remove()


@pytest.fixture(scope="module")
def amqp(rabbitmq_server: Server, project: InstalledProject) -> Iterator[tuple[str, str]]:
    """A vhost with a user that `deploy/rabbitmq-permissions.sh` has given its rights; the addresses
    of this user and of one with all rights, for the services."""
    if not isinstance(rabbitmq_server, RabbitmqServer):
        pytest.skip("needs a RabbitMQ that this test run has started as a process")
    vhost = f"rights-{secrets.token_hex(4)}"
    control = rabbitmq_server.control
    control("add_vhost", vhost)
    control("add_user", NAME, PASSWORD)
    control("set_permissions", "-p", vhost, "guest", ".*", ".*", ".*")
    try:
        subprocess.run(
            ["sh", "deploy/rabbitmq-permissions.sh", *rabbitmq_server.tool()],
            cwd=project.path,
            env=rabbitmq_server.environment() | {"RABBITMQ_VHOST": vhost},
            check=True,
            capture_output=True,
        )
        host = rabbitmq_server.url.partition("@")[2].rstrip("/")
        yield (
            f"amqp://{NAME}:{PASSWORD}@{host}/{vhost}",
            f"{rabbitmq_server.url}{vhost}",
        )
    finally:
        control("delete_user", NAME)
        control("delete_vhost", vhost)


@pytest.fixture(scope="module")
def database(postgres_server: Server) -> Iterator[str]:
    """The address of an empty database, for a superuser and without the scheme."""
    if not isinstance(postgres_server, PostgresServer):
        pytest.skip("needs a PostgreSQL that this test run has started as a process")
    name = f"rights_{secrets.token_hex(4)}"
    psql(postgres_server, "postgres", "--command", f"CREATE DATABASE {name}")
    yield name
    psql(postgres_server, "postgres", "--command", f"DROP DATABASE {name} WITH (FORCE)")
    for role in (NAME, f"{NAME}-owner"):
        psql(postgres_server, "postgres", "--command", f'DROP ROLE "{role}"')


def psql(server: PostgresServer, database: str, *arguments: str) -> None:
    done = subprocess.run(
        [
            *(str(server.program.with_name("psql")), "--quiet", "--no-psqlrc"),
            *("--host", "127.0.0.1", "--port", str(server.port), "--username", "postgres"),
            *("--dbname", database, *arguments),
        ],
        env={"PATH": os.environ["PATH"], "PGOPTIONS": "-c client_min_messages=warning"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.fixture(scope="module")
def deployment(
    project: InstalledProject,
    redis_url: str,
    amqp: tuple[str, str],
    postgres_server: Server,
    database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Deployment]:
    """A database that its owner has migrated, and settings for instances that own nothing."""
    assert isinstance(postgres_server, PostgresServer)
    address = f"127.0.0.1:{postgres_server.port}/{database}"
    deployment = Deployment(
        project,
        tmp_path_factory.mktemp("rights"),
        APP_NAME=NAME,
        REDIS_URL=redis_url,
        AMQP_URL=amqp[0],
        DATABASE_URL=f"postgresql+asyncpg://{NAME}@{address}",
    )
    roles = str(project.path / "deploy" / "postgres-roles.sql")
    psql(postgres_server, database, "--file", roles)
    refused = deployment.bff("migrate")
    assert refused.returncode != 0
    migrated = deployment.bff(
        "migrate", DATABASE_URL=f"postgresql+asyncpg://{NAME}-owner@{address}"
    )
    assert migrated.returncode == 0, migrated.stdout
    psql(postgres_server, database, "--file", roles)
    yield deployment
    deployment.close()


@pytest.fixture(scope="module")
def instance(deployment: Deployment) -> Instance:
    instance = deployment.serve("least-rights")
    instance.until_ready()
    return instance


@pytest.fixture(scope="module")
def orders(deployment: Deployment, amqp: tuple[str, str]) -> Iterator[Program]:
    """The example's service, with rights of its own."""
    service = Program(
        "orders",
        [deployment.project.python, "-m", "app.development.orders_service"],
        cwd=deployment.project.path,
        logs=deployment.folder,
        variables={"AMQP_URL": amqp[1], "PYTHONPATH": str(deployment.project.path)},
    )
    yield service
    service.close()


@pytest.fixture
def ann(deployment: Deployment) -> Person:
    return person_of(deployment)("ann", "orders")


@pytest.fixture
def admin(deployment: Deployment, http: httpx2.AsyncClient) -> Admin:
    return Admin(http, deployment.token("carol", "admin"))


async def test_a_call_and_the_event_that_follows_it(
    instance: Instance, orders: Program, ann: Person, connect: Connect
) -> None:
    assert all(check["ok"] for check in instance.readiness()["checks"].values())
    browser = await connect(instance, ann)

    async def service_is_there() -> bool:
        return (await browser.ask("orders", "list"))["error"] is None

    await until(service_is_there, "orders answers", poll=0.2)
    placed = await browser.ask("orders", "place", {"item": "tea", "quantity": 1})
    assert placed["error"] is None
    assert (await browser.event("order.updated"))["event"] == placed["result"]


async def test_a_ticket_signs_in(
    deployment: Deployment,
    instance: Instance,
    ann: Person,
    connect: Connect,
    http: httpx2.AsyncClient,
) -> None:
    headers = {"Authorization": f"Bearer {ann.token}"}
    answer = await http.post(f"{instance.url}/auth/ticket", headers=headers)
    assert answer.is_success, answer.text
    ticket = answer.json()["ticket"]
    deployment.canaries.append(ticket)
    browser = await connect(instance, ticket=ticket)
    assert browser.hello


async def test_broadcasts_are_sent_kept_and_listed(
    deployment: Deployment, instance: Instance, ann: Person, connect: Connect, admin: Admin
) -> None:
    early = await connect(instance, ann)
    sent = await admin.broadcast(instance, "news")
    assert (await early.event("news"))["event"]["broadcast_id"] == sent["id"]
    assert await admin.call("GET", instance, "/broadcasts") == [sent]
    found = await admin.connections(instance, ann.id)
    assert [facts["connection_id"] for facts in found] == [early.connection_id]


def test_the_doctor_finds_nothing_wrong(deployment: Deployment, instance: Instance) -> None:
    done = deployment.bff("doctor")
    assert done.returncode == 0, done.stdout


async def test_an_instance_can_neither_delete_what_was_sent_nor_change_the_schema(
    deployment: Deployment, instance: Instance
) -> None:
    engine = create_async_engine(deployment.settings["DATABASE_URL"])
    for statement in (
        "DELETE FROM bff_broadcast",
        "UPDATE bff_alembic_version SET version_num = '0'",
        "CREATE TABLE notes (id int)",
        "DROP TABLE bff_broadcast",
    ):
        async with engine.connect() as connection:
            with pytest.raises(ProgrammingError, match=r"permission denied|must be owner"):
                await connection.execute(text(statement))
    await engine.dispose()


def test_a_second_instance_drains_and_leaves(deployment: Deployment, instance: Instance) -> None:
    other = deployment.serve("leaves", DRAIN_SECONDS="0")
    other.until_ready()
    other.close()
    assert other.exit_code in {0, -signal.SIGTERM}
    for name in (instance, other):
        for refusal in ("NOPERM", "ACCESS_REFUSED", "permission denied"):
            assert refusal not in name.output, name.name


MISSING: dict[str, tuple[int, str, str]] = {
    "to consume the service queue": (2, "nuropb-my-bff-sq|", "queue 'nuropb-my-bff-sq'"),
    "to bind the service queue": (1, "nuropb-my-bff-sq|", "queue 'nuropb-my-bff-sq'"),
    "to declare the service queue": (0, "nuropb-my-bff-sq|", "queue 'nuropb-my-bff-sq'"),
    "to consume events": (2, "my-bff\\.events\\..*|", "queue 'my-bff.events."),
    "to consume replies": (2, "amq\\.gen.*|", "queue 'amq.gen-"),
    "to publish calls": (1, "rpc|", "exchange 'nuropb-rpc-exchange'"),
    "to publish events": (1, "events|", "exchange 'nuropb-events-exchange'"),
    "to publish replies": (1, "|amq\\.default", "exchange 'amq.default'"),
}
"""Of RabbitMQ's patterns (configure, write, read), what is taken from which, and what the broker
calls it."""


OFTEN = {"to publish replies"}
"""The others take a start of the BFF each, and run before a release."""


@pytest.mark.parametrize(
    "right",
    [pytest.param(one, marks=() if one in OFTEN else pytest.mark.long) for one in MISSING],
)
async def test_a_missing_right_in_rabbitmq_is_named(
    deployment: Deployment, rabbitmq_server: Server, amqp: tuple[str, str], right: str
) -> None:
    assert isinstance(rabbitmq_server, RabbitmqServer)
    control, vhost = rabbitmq_server.control, amqp[0].rpartition("/")[2]
    table = control("list_permissions", "-p", vhost)
    (row,) = (line for line in table.splitlines() if line.startswith(f"{NAME}\t"))
    patterns = row.split("\t")[1:]
    index, part, named = MISSING[right]
    fewer = patterns.copy()
    fewer[index] = fewer[index].replace(part, "")
    assert fewer != patterns
    control("set_permissions", "-p", vhost, NAME, *fewer)
    try:
        await check_that_it_is_named(deployment, "mesh", named)
    finally:
        control("set_permissions", "-p", vhost, NAME, *patterns)


async def test_a_missing_right_in_postgresql_is_named(
    deployment: Deployment, postgres_server: Server, database: str
) -> None:
    assert isinstance(postgres_server, PostgresServer)
    for right, table in (("UPDATE", "bff_broadcast"), ("DELETE", "bff_audit")):
        revoke = f'REVOKE {right} ON {table} FROM "{NAME}"'
        psql(postgres_server, database, "--command", revoke)
        try:
            await check_that_it_is_named(deployment, "database", right, table)
        finally:
            grant = f'GRANT {right} ON {table} TO "{NAME}"'
            psql(postgres_server, database, "--command", grant)


async def test_a_missing_right_in_redis_is_named(deployment: Deployment) -> None:
    url = deployment.settings["REDIS_URL"].replace(NAME, "admin", 1)
    admin: Any = Redis.from_url(url)
    async with admin:
        await admin.execute_command("ACL", "SETUSER", NAME, "-xadd")
        try:
            await check_that_it_is_named(deployment, "redis", "'xadd'")
        finally:
            await admin.execute_command("ACL", "SETUSER", NAME, "+xadd")


async def check_that_it_is_named(deployment: Deployment, check: str, *words: str) -> None:
    """By the readiness of a new instance, in this check alone, and by the doctor."""
    instance = deployment.serve("fewer-rights", DRAIN_SECONDS="0")

    def is_named() -> bool:
        failed = {
            name: one["reason"]
            for name, one in instance.readiness()["checks"].items()
            if not one["ok"]
        }
        return set(failed) == {check} and all(word in failed[check] for word in words)

    try:
        await until(is_named, f"readiness names {words}", poll=0.2)
        doctor = deployment.bff("doctor")
    finally:
        instance.close()
    assert doctor.returncode == 1
    bad = [line for line in doctor.stdout.splitlines() if line.startswith("BAD")]
    assert any(all(word in line for word in words) for line in bad), doctor.stdout
