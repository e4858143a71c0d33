"""Liveness, readiness, metrics, and the errors in the OpenAPI document."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
from bff import endpoints
from bff.db.database import make_engine
from bff.endpoints import health
from bff.settings import Settings
from bff.testing import RunningBff, run, until
from bff.testing.running import serve
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import APIRouter, FastAPI, HTTPException, Response
from jose import jwk
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from sqlalchemy import text

from tests.engine.echo import create_app


async def test_a_healthy_instance_is_alive_and_ready(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that warns: it still serves its connections."""
    async with bff.http() as http:
        assert (await http.get("/health/live")).json() == {"alive": True}
        ready = await http.get("/health/ready")
    assert ready.status_code == 200
    assert set(ready.json()["checks"]) == {"redis", "mesh", "database", "instance"}
    warnings: list[str | Exception] = ["memory is full soon", ConnectionError("lost")]

    async def warn() -> str:
        warning = warnings.pop(0)
        if isinstance(warning, Exception):
            raise warning
        return warning

    async def no_right() -> str:
        return "SQLite has no rights"

    monkeypatch.setattr(bff.engine.eviction, "warning", warn)
    monkeypatch.setattr(type(bff.engine.mesh), "stuck", "an event is stuck")
    if bff.engine.database.engine.dialect.name == "sqlite":
        monkeypatch.setattr(bff.engine.database, "missing_right", no_right)
    for reason in ("memory is full soon", "ConnectionError: lost"):
        response = Response()
        warned = await endpoints.readiness(bff.engine, response)
        assert (warned.ready, response.status_code) == (True, 200)
        reasons = {name: check.reason for name, check in warned.checks.items() if check.reason}
        assert reasons == {"redis": reason, "mesh": "an event is stuck"}


async def test_readiness_gives_the_reason_when_redis_is_unavailable(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable() -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(bff.engine.redis, "ping", unavailable)
    assert await reason(bff, "redis") == "ConnectionError: refused"


async def test_readiness_gives_the_reason_when_the_database_is_unavailable(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = make_engine("postgresql+asyncpg://nobody@127.0.0.1:1/nothing")
    monkeypatch.setattr(bff.engine.database, "engine", nowhere)
    assert "refused" in await reason(bff, "database")


async def reason(bff: RunningBff, check: str) -> str:
    """The reason of this check, which must be the only one that fails."""
    async with bff.http() as http:
        ready = await http.get("/health/ready")
    assert ready.status_code == 503
    failed = {name: one["reason"] for name, one in ready.json()["checks"].items() if not one["ok"]}
    assert set(failed) == {check}
    return str(failed[check])


async def test_a_database_that_was_never_migrated_is_not_ready(bff: RunningBff) -> None:
    async with bff.engine.database.engine.begin() as connection:
        await connection.execute(text("DROP TABLE bff_alembic_version"))
    async with bff.http() as http:
        ready = await http.get("/health/ready")
    assert "run `bff migrate`" in ready.json()["checks"]["database"]["reason"]


async def test_an_instance_without_pubsub_is_not_ready(bff: RunningBff) -> None:
    bff.engine.cluster.pubsub_listener._received_at = -1000.0
    async with bff.http() as http:
        ready = await http.get("/health/ready")
    assert "pub/sub not subscribed" in ready.json()["checks"]["redis"]["reason"]


async def test_a_dead_background_task_is_not_alive(bff: RunningBff) -> None:
    bff.engine.background._tasks[1].cancel()
    async with bff.http() as http:
        await http.get("/health/ready")
        assert (await http.get("/health/live")).status_code == 503


async def test_metrics_count_connections_and_calls(bff: RunningBff) -> None:
    async with bff.browser() as browser:
        await browser.request("echo", "say")
        async with bff.http() as http:
            text = (await http.get("/metrics")).text
    assert "bff_connections 1.0" in text
    assert 'bff_frames_in_total{type="request"} 1.0' in text
    assert 'bff_mesh_calls_total{outcome="ok",service="echo"} 1.0' in text


async def test_every_gauge_of_a_healthy_instance_has_the_value_that_alerts_expect(
    bff: RunningBff,
) -> None:
    """`docs/operate.md` says at which values to alert."""
    async with bff.browser(), bff.http() as http:
        await until(lambda: bff.engine.mesh.status.connected)
        await until(lambda: not bff.engine.mesh.consumers_down)
        text = (await http.get("/metrics")).text
    gauges = set(re.findall(r"^# TYPE (bff_\w+) gauge$", text, re.MULTILINE))
    values = {
        name: {float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M)}
        for name in gauges
    }
    assert values == {
        "bff_info": {1},
        "bff_connections": {1},
        "bff_pubsub_subscribed": {1},
        "bff_mesh_connected": {1},
        "bff_mesh_consumers_down": {0},
        "bff_mesh_event_retry_seconds": set(),
    }


async def test_gauges_show_a_pubsub_and_a_mesh_that_are_lost(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = bff.engine.metrics.registry.get_sample_value

    async def fail(_: object) -> None:
        raise ConnectionError("lost")

    monkeypatch.setattr(bff.engine.cluster.pubsub_listener, "_on_message", fail)
    monkeypatch.setattr("bff.cluster.pubsub_listener.create_pubsub", fail)
    await bff.engine.messenger.to_all("news", 1)
    await until(lambda: value("bff_pubsub_subscribed") == 0)
    await bff.engine.mesh.stop()
    assert value("bff_mesh_connected", {"mesh": "mesh"}) == 0


async def test_every_error_of_the_api_is_documented_as_problem_json(bff: RunningBff) -> None:
    async with bff.http() as http:
        document = (await http.get("/openapi.json")).json()
    for path, operations in document["paths"].items():
        if path.startswith(("/health", "/dev", "/bff-client", "/admin/stats")) or path == "/":
            continue
        if path in ("/auth/login", "/auth/backchannel-logout"):  # they take no caller
            continue
        for operation in operations.values():
            errors = {code for code in operation["responses"] if code[0] in "45"}
            assert "401" in errors, path
            for code in errors:
                assert "application/problem+json" in operation["responses"][code]["content"], path


async def test_a_queue_that_is_not_consumed_is_not_ready(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    down = {"nuropb-shop-sq": "ACCESS_REFUSED - read access to queue 'nuropb-shop-sq' refused"}
    transport = bff.engine.mesh._transport
    monkeypatch.setattr(type(transport), "consumers_down", down)
    bff.engine.mesh._report_status()
    assert await reason(bff, "mesh") == f"nuropb-shop-sq is not consumed: {down['nuropb-shop-sq']}"
    async with bff.http() as http:
        assert 'bff_mesh_consumers_down{mesh="mesh"} 1.0' in (await http.get("/metrics")).text


async def test_a_redis_that_refuses_a_command_is_not_ready(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: object) -> str:
        return "NOPERM User shop has no permissions to run the 'xadd' command"

    monkeypatch.setattr("bff.endpoints.health.missing_right", refused)
    assert "'xadd'" in await reason(bff, "redis")


async def test_an_instance_is_ready_once_it_has_the_keys_of_the_identity_provider(
    settings: Settings,
) -> None:
    """Until then nobody can sign in. Afterwards the provider may be away."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    public = jwk.construct(pem, "ES256").to_dict()
    served = {"keys": [public]}
    available = True
    provider = FastAPI()

    @provider.get("/keys")
    def keys() -> dict[str, Any]:
        if not available:
            raise HTTPException(503)
        return served

    async with serve(settings, provider, lifespan="off") as (_, address):
        changes = {
            "jwks_url": f"http://{address}/keys",
            "jwt_secret": None,
            "jwt_algorithms": ("ES256",),
        }
        app = create_app(settings.model_copy(update=changes))
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as http:

            async def identity() -> dict[str, Any]:
                check: dict[str, Any] = (await http.get("/health/ready")).json()["checks"][
                    "identity"
                ]
                return check

            available = False
            failed = await identity()
            assert not failed["ok"]
            assert "503" in failed["reason"]
            available = True
            app.state.bff.verifier.tokens._jwks._not_before = 0.0
            assert (await identity())["ok"]
            available = False
            app.state.bff.verifier.tokens._jwks._not_before = 0.0
            assert (await identity())["ok"]
            assert await app.state.bff.verifier.tokens.usable_keys() == 1
        await app.state.bff.verifier.tokens.close()
        await app.state.bff.database.close()


async def test_checks_of_the_app_decide_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_CHECK_SECONDS", 0.5)
    own = APIRouter()
    trouble = ""

    async def billing() -> str:
        if trouble == "raises":
            raise ValueError("no account")
        if trouble == "hangs":
            await asyncio.Event().wait()
        return trouble

    @own.get("/ready")
    async def ready(bff: endpoints.BffDep, response: Response) -> endpoints.Readiness:
        return await endpoints.readiness(bff, response, own={"billing": billing})

    async with run(create_app(settings, http=[own])) as running, running.http() as http:
        for cause, reason in (
            ("", ""),
            ("no money", "no money"),
            ("raises", "ValueError: no account"),
            ("hangs", "TimeoutError: no answer"),
        ):
            trouble = cause
            answer = await http.get("/ready")
            assert answer.json()["checks"]["billing"] == {"ok": not reason, "reason": reason}
            assert answer.status_code == (503 if reason else 200)


async def test_an_identity_provider_that_hangs_is_the_reason(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang() -> int:
        await asyncio.Event().wait()
        return 1

    monkeypatch.setattr(health, "_CHECK_SECONDS", 0.01)
    monkeypatch.setattr(bff.engine.verifier.tokens, "usable_keys", hang)
    assert await health._identity(bff.engine) == "keys of the identity provider: no answer"


async def test_an_instance_without_a_lease_is_not_ready(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connections are no longer in the index."""
    monkeypatch.setattr(bff.engine.index, "lease_error", "gone")
    assert await reason(bff, "redis") == "could not renew lease: gone"


async def test_the_metrics_of_all_workers_are_told(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for worker, value in (("1", 2.0), ("2", 3.0)):
        counters = MmapedDict(str(tmp_path / f"counter_{worker}.db"))  # type: ignore[no-untyped-call]
        key = mmap_key("orders", "orders_total", [], [], "Orders")
        counters.write_value(key, value, 0.0)  # type: ignore[no-untyped-call]
        counters.close()  # type: ignore[no-untyped-call]
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    async with bff.http() as http:
        assert "orders_total 5.0" in (await http.get("/metrics")).text
