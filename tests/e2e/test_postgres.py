"""The same app on a real PostgreSQL."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from tests.baked import InstalledProject
from tests.e2e.conftest import Admin, Connect, Person, person_of
from tests.e2e.deployment import Cluster, Deployment, new_database, start_cluster
from tests.servers import Server
from tests.servers.postgres import PostgresServer


@pytest.fixture
async def database_url(postgres_server: Server) -> str:
    return await new_database(postgres_server)


@pytest.fixture
def deployment(
    project: InstalledProject,
    redis_server: Server,
    rabbitmq_server: Server,
    database_url: str,
    tmp_path: Path,
) -> Iterator[Deployment]:
    deployment = Deployment(
        project,
        tmp_path,
        REDIS_URL=redis_server.url,
        AMQP_URL=rabbitmq_server.url,
        DATABASE_URL=database_url,
    )
    yield deployment
    deployment.close()


async def test_a_bff_on_postgres(
    deployment: Deployment, database_url: str, http: httpx2.AsyncClient, connect: Connect
) -> None:
    """Two concurrent migrations, then broadcasts stored on A, listed on B, and retained."""
    with ThreadPoolExecutor() as threads:
        runs = list(threads.map(deployment.bff, ["migrate", "migrate"]))
    for run in runs:
        assert run.returncode == 0, run.stdout
    engine = create_async_engine(database_url)
    async with engine.connect() as connection:
        revisions = (
            await connection.execute(text("SELECT version_num FROM bff_alembic_version"))
        ).all()
    await engine.dispose()
    assert len(revisions) == 1

    cluster = start_cluster(deployment)
    admin = Admin(http, deployment.token("carol", "admin"))
    alice: Person = person_of(deployment)("alice")
    early = await connect(cluster.b, alice)
    sent = [
        await admin.broadcast(cluster.a, "first", event={"text": "Grüße 🎈", "n": [1, None]}),
        await admin.broadcast(
            cluster.a,
            "second",
            audience="users",
            user_ids=[alice.id],
            expires_at=(datetime.now(UTC) + timedelta(minutes=5)).isoformat(),
        ),
    ]
    assert (await early.event("second"))["event"]["broadcast_id"] == sent[1]["id"]
    await _are_listed(admin, cluster, sent)
    late = await connect(cluster.b, alice)
    assert (await late.event("second"))["event"]["broadcast_id"] == sent[1]["id"]
    assert cluster.a.readiness()["checks"]["database"] == {"ok": True, "reason": ""}


@pytest.mark.long
async def test_a_database_is_lost_and_restored_from_a_backup(
    deployment: Deployment,
    postgres_server: Server,
    database_url: str,
    http: httpx2.AsyncClient,
    connect: Connect,
) -> None:
    """What `docs/operate.md` says of it: without the database, sockets and requests work; what was
    stored after the backup is missing, also for those who connect later."""
    if not isinstance(postgres_server, PostgresServer):
        pytest.skip("needs a PostgreSQL that this test run has started as a process")
    name = database_url.rpartition("/")[2]
    cluster = start_cluster(deployment)
    admin = Admin(http, deployment.token("carol", "admin"))
    alice = person_of(deployment)("alice", "demo")
    until_tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    before = await admin.broadcast(cluster.a, "before", expires_at=until_tomorrow)
    dump = _run(postgres_server, "pg_dump", "--format=custom", name)
    await admin.broadcast(cluster.a, "after", expires_at=until_tomorrow)

    _run(postgres_server, "dropdb", "--force", name)
    browser = await connect(cluster.a, alice)
    assert await browser.answers()
    url, body = f"{cluster.b.url}/admin/broadcasts", {"audience": "all", "topic": "x", "event": {}}
    assert (await http.post(url, json=body, headers=admin.headers)).status_code == 503

    _run(postgres_server, "createdb", name)
    _run(postgres_server, "pg_restore", "--exit-on-error", f"--dbname={name}", given=dump)
    assert deployment.bff("migrate").returncode == 0
    for instance in (cluster.a, cluster.b):
        instance.signal(signal.SIGTERM)
        await instance.exited()
    cluster = cluster.whole()
    assert await admin.call("GET", cluster.a, "/broadcasts") == [before]
    later = await connect(cluster.b, alice)
    await later.event("before")
    await admin.fence(cluster.b, later)
    assert later.events("after") == []


def _run(server: PostgresServer, program: str, *arguments: str, given: bytes = b"") -> bytes:
    """The output of a program of PostgreSQL, which must succeed."""
    done = subprocess.run(
        [
            *(str(server.program.with_name(program)), "--host=127.0.0.1", "--username=postgres"),
            *(f"--port={server.port}", *arguments),
        ],
        input=given,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def _are_listed(admin: Admin, cluster: Cluster, sent: list[dict[str, object]]) -> None:
    listed = await admin.call("GET", cluster.b, "/broadcasts")
    assert listed == sent[::-1]
    assert await admin.call("GET", cluster.b, f"/broadcasts/{sent[0]['id']}") == sent[0]
    assert await admin.call("GET", cluster.b, "/broadcasts", params={"before": sent[1]["id"]}) == [
        sent[0]
    ]
