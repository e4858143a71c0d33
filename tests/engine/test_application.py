"""What a `Bff` is made of, what it starts, and what it adds to an app."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from bff import application
from bff.application import Bff
from bff.auth.caller import Caller
from bff.db import migrate
from bff.db.database import Database
from bff.errors import Code, Problem
from bff.mesh.memory import MemoryBroker
from bff.mesh.service import Publish, Service
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings
from fastapi import FastAPI
from sqlalchemy import text

AUTHORIZE = "/dev/identity-provider/authorize"
ALWAYS = {
    "audit",
    "pubsub_listener",
    "stream_hub",
    "revocations",
    "index",
    "presence",
    "event_handler_names",
}


class Billing: ...


@asynccontextmanager
async def started(bff: Bff) -> AsyncIterator[Bff]:
    async with bff.lifespan(FastAPI()):
        yield bff


def warnings(caplog: pytest.LogCaptureFixture) -> set[str]:
    return {one.message for one in caplog.records if one.levelname != "INFO"}


def made(settings: Settings, caplog: pytest.LogCaptureFixture) -> Bff:
    """A `Bff`, which configures logging, and after which `caplog` still sees the lines."""
    bff = Bff(settings)
    caplog.clear()
    logging.getLogger().addHandler(caplog.handler)
    return bff


def running() -> set[str]:
    """The background tasks that run now, by their names."""
    names = ALWAYS | {"session_check", "user_check"}
    return {task.get_name() for task in asyncio.all_tasks()} & names


async def allowed(_: Caller) -> bool:
    return True


async def test_only_what_is_used_runs_in_the_background(settings: Settings) -> None:
    async with started(Bff(settings)):
        assert running() == ALWAYS
    assert running() == set()
    sign_in = settings.model_copy(update={"oidc_issuer": "memory://"})
    async with started(Bff(sign_in, still_allowed=allowed)):
        assert running() == ALWAYS | {"session_check", "user_check"}
    assert running() == set()


async def test_a_resource_of_the_app_is_there_while_the_app_runs(settings: Settings) -> None:
    events: list[str] = []
    billing = Billing()

    @asynccontextmanager
    async def opened(bff: Bff) -> AsyncIterator[Billing]:
        events.append(f"opened for {bff.settings.app_name}")
        yield billing
        events.append("closed")

    realtime = RealtimeRouter()

    @realtime.method("shop.pay")
    async def pay(billing: Billing) -> None: ...

    with pytest.raises(TypeError, match="Billing"):
        Bff(settings, realtime=[realtime])
    bff = Bff(settings, realtime=[realtime], provide={Billing: opened})
    assert bff.provided(Settings) is bff.provided(type(settings)) is settings
    with pytest.raises(LookupError, match="Billing is not provided"):
        bff.provided(Billing)
    async with started(bff):
        assert bff.provided(Billing) is billing
        assert events == [f"opened for {settings.app_name}"]
    with pytest.raises(LookupError):
        bff.provided(Billing)
    assert events[1:] == ["closed"]


async def test_only_without_redis_something_is_said_at_the_start_and_the_stop(
    settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application, "_PUBSUB_SECONDS", 0.05)
    away = settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"})
    bff = made(away, caplog)
    async with started(bff):
        assert warnings(caplog) >= {"no lease yet: Redis unavailable", "pub/sub not subscribed yet"}
        assert bff.background.alive
    assert "could not release lease" in warnings(caplog)
    async with started(made(settings, caplog)) as bff:
        assert bff.mesh.status.connected or settings.amqp_url != "memory://"
    assert warnings(caplog) == set()


async def pending(settings: Settings) -> bool:
    return any(one.is_pending for one in (await migrate.current(settings)).values())


async def test_an_app_migrates_outside_of_production_and_starts_if_it_cannot(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    url = "postgresql+asyncpg://127.0.0.1:1/shop"
    async with started(made(settings.model_copy(update={"database_url": url}), caplog)):
        assert "migrations not applied: database unavailable" in warnings(caplog)
    production = settings.model_copy(update={"environment": "production"})
    async with started(Bff(production)):
        assert await pending(production)
    async with started(made(settings, caplog)):
        assert not await pending(settings)
        assert warnings(caplog) == set()
    database = Database(settings)
    async with database.engine.begin() as connection:
        await connection.execute(text("UPDATE bff_alembic_version SET version_num = '9999'"))
    await database.close()
    async with started(made(settings, caplog)):
        assert warnings(caplog) == {"migrations not applied: newer schema"}


async def test_what_was_recorded_just_before_the_stop_is_in_the_audit_log(
    settings: Settings,
) -> None:
    async with started(Bff(settings)) as bff:
        for number in range(20):
            bff.audit.record("sign_in", user=f"user-{number}")
    database = Database(settings)
    async with database.engine.connect() as connection:
        stored = await connection.scalar(text("SELECT count(*) FROM bff_audit"))
    await database.close()
    assert stored == 20


def stand_in(name: str) -> Any:
    def make(_: Publish) -> Service:
        service = Service(name)

        @service.method("say")
        async def say() -> str:
            return f"said by {name}"

        return service

    return make


async def test_stand_ins_serve_the_mesh_that_is_inside_the_process(settings: Settings) -> None:
    within = settings.model_copy(update={"amqp_url": "memory://"})
    broker = MemoryBroker()
    async with started(Bff(within, stand_ins=[stand_in("shop")], broker=broker)) as bff:
        assert await bff.mesh.request("shop", "say", {}) == "said by shop"
        assert bff.broker is broker
    with pytest.raises(ValueError, match="also the name of a stand-in"):
        Bff(within, stand_ins=[stand_in(within.app_name)])
    elsewhere = settings.model_copy(update={"amqp_url": "amqp://127.0.0.1:1/"})
    Bff(elsewhere, stand_ins=[stand_in(elsewhere.app_name)])


@pytest.mark.parametrize(
    ("changes", "page", "provider"),
    [
        ({"environment": "development", "oidc_issuer": "memory://"}, True, True),
        ({"environment": "development"}, True, False),
        ({"environment": "test"}, False, False),
        ({"environment": "production"}, False, False),
    ],
)
async def test_the_page_and_the_provider_are_only_served_where_they_belong(
    settings: Settings, changes: dict[str, Any], page: bool, provider: bool
) -> None:
    app = FastAPI()
    bff = Bff(settings.model_copy(update=changes))
    bff.install(app)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
        assert (await http.get("/")).is_success is page
        assert ((await http.get(AUTHORIZE)).status_code != 404) is provider


def test_the_app_and_its_parts_get_the_settings_that_they_need(settings: Settings) -> None:
    app, own = FastAPI(), FastAPI()
    own.root_path = "/own"
    limits = {"max_messages_per_minute": 1, "max_message_burst": 2, "max_body_bytes": 77}
    bff = Bff(settings.model_copy(update={"root_path": "/apps", **limits}))
    bff.install(app)
    assert (app.root_path, app.max_body_size, app.state.bff) == ("/apps", 77, bff)
    Bff(settings.model_copy(update={"log_level": "ERROR"}))
    assert logging.getLogger().level == logging.ERROR
    Bff(settings).install(own)
    assert own.root_path == "/own", "without the setting that of the app stays"
    assert "ProblemDetails" in own.openapi()["components"]["schemas"], "its document is complete"
    for _ in range(2):
        bff.allowances.check("alice")
    with pytest.raises(Problem) as refused:
        bff.allowances.check("alice")
    assert refused.value.code is Code.RATE_LIMITED
    assert refused.value.retry_after_seconds == pytest.approx(60, abs=30)
