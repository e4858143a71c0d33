"""The same app on a real PostgreSQL."""

from __future__ import annotations

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


async def _are_listed(admin: Admin, cluster: Cluster, sent: list[dict[str, object]]) -> None:
    listed = await admin.call("GET", cluster.b, "/broadcasts")
    assert listed == sent[::-1]
    assert await admin.call("GET", cluster.b, f"/broadcasts/{sent[0]['id']}") == sent[0]
    assert await admin.call("GET", cluster.b, "/broadcasts", params={"before": sent[1]["id"]}) == [
        sent[0]
    ]
