"""`bff doctor`: rights, the identity provider, exposed methods that require encrypted calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiormq
import pytest
from aiormq.exceptions import ChannelAccessRefused
from bff import doctor
from bff.application import Bff
from bff.auth.caller import Caller
from bff.cluster.keys import Keys
from bff.db import migrate
from bff.db.database import Database
from bff.doctor import Finding, _settings, check_encryption, diagnose
from bff.errors import Code, Problem
from bff.mesh.describe import MethodDescription, ServiceDescription
from bff.mesh.events import MeshEvent
from bff.realtime.event_handler_names import EventHandlerNames
from bff.realtime.router import RealtimeRouter
from bff.redis.client import create_client
from bff.redis.eviction import UNKNOWN, EvictionCheck
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings
from bff.testing import run, until
from bff.testing.running import serve
from bff.version import __version__
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import FastAPI
from jose import jwk
from sqlalchemy import text

from tests.engine.echo import create_app

ENCRYPTED, PLAIN = MethodDescription(encrypted=True), MethodDescription()
PAYMENTS = ServiceDescription(
    "payments", methods={"pay": ENCRYPTED, "list": PLAIN, "hidden": ENCRYPTED}
)


@pytest.mark.parametrize("methods", [["pay", "list"], ["*a*", "l*"]], ids=["named", "patterns"])
@pytest.mark.parametrize("encrypted", [True, False])
def test_a_method_that_requires_encryption_must_be_exposed_encrypted(
    methods: list[str], encrypted: bool
) -> None:
    realtime = RealtimeRouter()
    realtime.expose("payments", methods=methods, encrypted=encrypted)
    (finding,) = check_encryption(PAYMENTS, realtime)
    assert finding.ok is encrypted
    assert "payments.pay requires encrypted calls" in str(finding)
    assert ("encrypted=True" in str(finding)) is not encrypted


def test_methods_that_are_not_exposed_are_not_checked() -> None:
    assert check_encryption(PAYMENTS, RealtimeRouter()) == []


async def bad(settings: Settings) -> list[str]:
    """What the doctor finds wrong, except for the database, which nobody has migrated."""
    findings: list[Finding] = await diagnose(create_app(settings).state.bff)
    return [finding.text for finding in findings if not finding.ok and "schema" not in finding.text]


async def test_with_all_rights_nothing_is_wrong(settings: Settings) -> None:
    assert await bad(settings) == []


async def test_what_redis_refuses_is_told_in_its_words(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: object) -> str:
        return "NOPERM no permissions to run the 'xadd' command"

    monkeypatch.setattr("bff.doctor.missing_right", refused)
    assert await bad(settings) == ["Redis: NOPERM no permissions to run the 'xadd' command"]


async def test_a_missing_right_to_publish_is_found_however_late_rabbitmq_tells_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    if settings.amqp_url == "memory://":
        pytest.skip("needs RabbitMQ: TEST_AMQP_URL is not set")

    async def refused(*_: object) -> None:
        await asyncio.sleep(0.7)
        raise ChannelAccessRefused("write access to exchange 'nr.exchange' refused")

    monkeypatch.setattr("bff.mesh.rabbitmq.transport.check_publishing", refused)
    (found,) = await bad(settings)
    assert found.startswith("mesh: ")
    assert "write access to exchange" in found


KEYS: dict[str, tuple[dict[str, Any], str]] = {
    "no keys": ({"keys": []}, "no usable key in the JWK set"),
    "a key for something else": (
        {"keys": [{"kty": "RSA", "use": "enc", "n": "AQAB", "e": "AQAB"}]},
        "no usable key in the JWK set",
    ),
    "no JWK set": ({"error": "not found"}, "KeyError"),
}


@pytest.mark.parametrize("what", KEYS)
async def test_keys_that_cannot_be_used_are_found(settings: Settings, what: str) -> None:
    served, words = KEYS[what]
    provider = FastAPI()
    provider.add_api_route("/keys", lambda: served)
    async with serve(settings, provider, lifespan="off") as (_, address):
        (found,) = await bad(with_keys(settings, f"http://{address}/keys"))
    assert found.startswith("keys of the identity provider: ")
    assert words in found


async def test_an_identity_provider_that_does_not_answer_is_found(settings: Settings) -> None:
    (found,) = await bad(with_keys(settings, "http://127.0.0.1:1/keys"))
    assert found.startswith("keys of the identity provider: ConnectError")


def with_keys(settings: Settings, url: str) -> Settings:
    changes = {"jwks_url": url, "jwt_secret": None, "jwt_algorithms": ("RS256",)}
    return settings.model_copy(update=changes)


async def test_a_provider_at_which_nobody_can_sign_in_is_found(settings: Settings) -> None:
    provider = FastAPI()
    path = "/.well-known/openid-configuration"
    provider.add_api_route(path, lambda: {"issuer": "https://other.example"})
    async with serve(settings, provider, lifespan="off") as (_, address):
        (found,) = await bad(with_provider(settings, f"http://{address}"))
    assert found == "sign-in: ValueError: the issuer in the metadata is not OIDC_ISSUER"
    (found,) = await bad(with_provider(settings, "http://127.0.0.1:1"))
    assert found.startswith("sign-in: ConnectError")


async def test_a_provider_that_answers_is_named(settings: Settings) -> None:
    provider, metadata = FastAPI(), dict[str, str]()
    provider.add_api_route("/.well-known/openid-configuration", lambda: metadata)
    async with serve(settings, provider, lifespan="off") as (_, address):
        issuer = f"http://{address}"
        metadata.update(issuer=issuer)
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            metadata[name] = f"{issuer}/{name}"
        changed = with_provider(settings, issuer)
        assert await about(changed, "sign-in: ") == [f"ok   sign-in: {issuer} answers"]


def with_provider(settings: Settings, issuer: str) -> Settings:
    changes = {"oidc_issuer": issuer, "oidc_client_id": "bff", "oidc_client_secret": "s"}
    return Settings(_env_file=None, **settings.model_dump() | changes)


async def test_an_exposed_method_without_scopes_is_a_warning(settings: Settings) -> None:
    open_to_all, scoped = RealtimeRouter(), RealtimeRouter()
    open_to_all.expose("invoices", methods=["list", "get_*"])
    scoped.expose("reports", methods=["list"], scopes=["reports"])
    findings = await diagnose(create_app(settings, open_to_all, scoped).state.bff)
    warned = [str(finding) for finding in findings if finding.warning]
    for name in ("invoices.list", "invoices.get_*", "echo.say"):
        assert any(name in line and line.startswith("warn") for line in warned), warned
    assert not any("reports.list" in line for line in warned)


async def test_queues_that_no_event_handler_owns_are_named(settings: Settings) -> None:
    """A handler was renamed: its queue still gets events, which nobody handles."""
    if "memory://" in (settings.amqp_url, settings.redis_url):
        pytest.skip("needs RabbitMQ and Redis: TEST_AMQP_URL or TEST_REDIS_URL is not set")
    topic = f"{settings.app_name}.paid"
    handled: list[Any] = []

    def app(name: str) -> FastAPI:
        router = RealtimeRouter()

        @router.event(topic, name=name)
        async def on_paid(event: MeshEvent) -> None:
            handled.append(event.payload)

        return create_app(settings, router)

    queue = f"{settings.app_name}.events.paid_old.v1"

    async def named(handler: str) -> list[str]:
        findings = await diagnose(app(handler).state.bff)
        return [str(one) for one in findings if one.warning and queue in one.text]

    async with run(app("paid_old")) as old:
        await until(lambda: _is_recorded(old.engine, "paid_old"))
        assert await named("paid_new") == [], "an instance of the old version still consumes it"
    async with run(app("paid_new")) as new:
        await new.engine.mesh.publish(topic, 1)
        await until(lambda: handled == [1])
    (line,) = await named("paid_new")
    assert line.startswith("warn")
    assert line.endswith("1 events wait")
    assert await named("paid_old") == []
    connection = await aiormq.connect(settings.amqp_url)
    channel = await connection.channel()
    for one in (queue, queue.replace("old", "new")):
        await channel.queue_delete(one)
    await connection.close()
    assert await named("paid_new") == []


async def test_each_queue_and_those_without_an_owner_are_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    class Mesh:
        async def check_queues(self, _: object) -> dict[str, str]:
            return {"shop.calls": "", "shop.events": "403 ACCESS_REFUSED"}

        async def unconsumed_events(self, names: list[str]) -> dict[str, int]:
            asked.append(names)
            return {"shop.events.old": 3}

    @asynccontextmanager
    async def connected(_: Settings) -> AsyncIterator[Mesh]:
        yield Mesh()

    monkeypatch.setattr(doctor, "_connected", connected)
    bff = create_app(settings).state.bff
    assert [str(one) for one in await doctor._queues(bff)] == [
        "ok   mesh queue shop.calls: can be consumed",
        "BAD  mesh queue shop.events: 403 ACCESS_REFUSED",
    ]
    assert await doctor._unowned_queues(bff) == []

    async def recorded(_: EventHandlerNames) -> set[str]:
        return {"old", *bff.realtime.event_handlers}

    monkeypatch.setattr(EventHandlerNames, "all", recorded)
    (line,) = map(str, await doctor._unowned_queues(bff))
    assert asked == [["old"]]
    assert line.startswith("warn mesh queue shop.events.old: no event handler owns it")
    assert line.endswith("3 events wait")


async def _is_recorded(bff: Bff, name: str) -> bool:
    return name in await EventHandlerNames(bff.cluster.pipeline, bff.cluster.context.keys).all()


async def test_names_of_event_handlers_are_forgotten_after_two_weeks(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = create_client(settings.redis_url)
    pipeline = AutoPipeline(redis)
    names = EventHandlerNames(pipeline, Keys(settings.prefix))
    day, now = 24 * 3600, time.time()
    for days, name in ((15, "oldest"), (13, "older"), (0, "current")):
        monkeypatch.setattr(time, "time", lambda days=days: now - days * day)
        await names.record([name])
    assert await names.all() == {"older", "current"}
    assert 0 < int(await redis.ttl(Keys(settings.prefix).event_handlers)) <= 14 * day
    await pipeline.close()
    await redis.aclose()


@pytest.mark.parametrize(
    ("changes", "text", "ok", "warning"),
    [
        ({"jwks_url": "https://id/keys", "jwt_audience": None}, "other applications", True, True),
        (
            {"jwks_url": "https://id/keys", "jwt_audience": None, "environment": "production"},
            "other applications",
            False,
            True,
        ),
        ({"jwt_audience": None}, "tokens with an audience are refused", True, False),
        ({"jwt_issuer": None}, "JWT_ISSUER is not set", True, False),
        ({"allowed_origins": ()}, "set ALLOWED_ORIGINS", False, False),
        ({"allowed_origins": ("https://a",)}, "allowed origins: https://a", True, False),
        (
            {"mesh_token_secret": None, "jwt_secret": None},
            "MESH_TOKEN_SECRET is not set",
            True,
            False,
        ),
    ],
)
def test_settings_that_operators_should_know_are_told(
    settings: Settings, changes: dict[str, Any], text: str, ok: bool, warning: bool
) -> None:
    (finding,) = [one for one in _settings(settings.model_copy(update=changes)) if text in one.text]
    assert (finding.ok, finding.warning) == (ok, warning)


def test_settings_that_are_complete_are_not_complained_about(settings: Settings) -> None:
    changes = {"jwt_audience": "shop", "jwt_issuer": "https://id", "jwks_url": "https://id/keys"}
    texts = [one.text for one in _settings(settings.model_copy(update=changes))]
    assert not [text for text in texts if "AUDIENCE" in text or "ISSUER" in text]
    assert any(text.startswith("tokens: verified with https://id/keys") for text in texts)
    with_secret = [one.text for one in _settings(settings)]
    assert with_secret[0] == "tokens: verified with JWT_SECRET, algorithms HS256"


async def test_usable_keys_are_counted(settings: Settings) -> None:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    public = jwk.construct(pem, "ES256").to_dict()
    provider = FastAPI()
    provider.add_api_route("/keys", lambda: {"keys": [public]})
    async with serve(settings, provider, lifespan="off") as (_, address):
        changed = with_keys(settings, f"http://{address}/keys")
        changed = changed.model_copy(update={"jwt_algorithms": ("ES256",)})
        findings = await diagnose(create_app(changed).state.bff)
    (finding,) = [one for one in findings if one.text.startswith("keys of the identity provider")]
    assert (finding.ok, finding.text) == (True, "keys of the identity provider: 1 usable")


async def test_every_exposed_service_is_asked_whether_it_requires_encryption(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Mesh:
        async def describe(self, name: str) -> ServiceDescription:
            asked.append(name)
            if name == "away":
                raise Problem(Code.SERVICE_UNAVAILABLE)
            return ServiceDescription(name, methods={"pay": ENCRYPTED})

    @asynccontextmanager
    async def connected(_: Settings) -> AsyncIterator[Mesh]:
        yield Mesh()

    monkeypatch.setattr(doctor, "_connected", connected)
    realtime = RealtimeRouter()
    realtime.expose("away", methods=["pay"])
    realtime.expose("named", methods=["pay"])
    realtime.expose("patterns", methods=["p*"])

    @realtime.method("local.pay")
    async def pay() -> None: ...

    findings = await doctor._encryption(settings, realtime)
    assert asked == ["away", "named", "patterns"]
    assert [finding.ok for finding in findings] == [False, False]


async def about(settings: Settings, what: str, *routers: RealtimeRouter) -> list[str]:
    """What the doctor says about a server: the lines whose text begins with this."""
    before = asyncio.all_tasks()
    findings = await diagnose(create_app(settings, *routers).state.bff)
    await until(lambda: asyncio.all_tasks() <= before)
    assert findings[0] == Finding(True, f"bff {__version__}")
    return [str(finding) for finding in findings if finding.text.startswith(what)]


async def test_each_server_is_told_to_be_in_order(settings: Settings) -> None:
    await migrate.upgrade(settings)
    assert (await about(settings, "Redis: "))[0] == "ok   Redis: reachable, with all rights"
    assert await about(settings, "mesh: ") == ["ok   mesh: connected, may publish"]
    assert await about(settings, "database") == [
        "ok   database: reachable",
        "ok   database schema: up to date",
        "ok   database rights: complete",
    ]


async def test_each_server_that_is_away_is_told_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_CONNECT_SECONDS", 0.3)
    away = "127.0.0.1:1"
    changed = settings.model_copy(
        update={
            "redis_url": f"redis://{away}/0",
            "amqp_url": f"amqp://{away}/",
            "database_url": f"postgresql+asyncpg://{away}/shop",
        }
    )
    findings = await diagnose(create_app(changed).state.bff)
    found = [finding.text for finding in findings if not finding.ok]
    assert [text.partition(": ")[0] for text in found] == [
        "Redis",
        "mesh",
        "database",
        "database schema",
    ]
    assert all(len(text.partition(": ")[2]) > 10 for text in found), "the reason is told"
    assert not any(text.startswith("mesh queue") for text in found)


async def test_a_server_that_does_not_answer_does_not_keep_the_doctor_waiting(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(doctor, "_SECONDS", 0.2)
    monkeypatch.setattr(doctor, "missing_right", never)
    monkeypatch.setattr("bff.doctor.EvictionCheck.warning", never)
    monkeypatch.setattr("bff.db.database.Database.ping", never)
    async with asyncio.timeout(30):
        found = await bad(settings)
    assert {"Redis: no reply within 0 s", "database: no reply within 0 s"} <= {*found}


async def test_a_schema_that_is_behind_ahead_or_closed_to_the_user_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = await about(settings, "database ")
    assert len(behind) == 1, "rights are those of a table, which must exist"
    assert behind[0].startswith("BAD  database schema: the engine's revisions are not applied")
    await migrate.upgrade(settings)
    database = Database(settings)

    async def refused(_: Database) -> str:
        return "DELETE: permission denied for table bff_audit"

    monkeypatch.setattr(Database, "missing_right", refused)
    async with database.session() as session:
        await session.exec(text("UPDATE bff_alembic_version SET version_num = '9999'"))  # type: ignore[call-overload]
        await session.commit()
    await database.close()
    ahead, rights = await about(settings, "database ")
    assert ahead.startswith("warn database schema: the engine's tables are newer than this code")
    assert rights == "BAD  database rights: DELETE: permission denied for table bff_audit"


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("", "ok   Redis: keeps all keys (maxmemory-policy noeviction)"),
        ("maxmemory-policy is allkeys-lru", "BAD  Redis: maxmemory-policy is allkeys-lru"),
        (f"{UNKNOWN}: allow INFO", f"warn Redis: {UNKNOWN}: allow INFO"),
    ],
)
async def test_whether_redis_keeps_all_keys_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, reason: str, line: str
) -> None:
    async def warning(_: EvictionCheck) -> str:
        return reason

    monkeypatch.setattr(EvictionCheck, "warning", warning)
    assert (await about(settings, "Redis: "))[1:] == [line]


async def test_what_is_offered_to_browsers_and_services_is_listed(settings: Settings) -> None:
    realtime = RealtimeRouter()
    realtime.expose("invoices", methods=["list", "get_*"], scopes=["read", "invoices"])

    @realtime.method("notes.add", scopes=["notes"])
    async def add() -> None: ...

    @realtime.method("notes.list")
    async def everybody() -> None: ...

    @realtime.topic("notes.*", scopes=["notes", "admin"])
    async def subscribes() -> bool:
        return True

    @realtime.topic("news")
    async def everybody_subscribes() -> bool:
        return True

    @realtime.mesh_method("count")
    async def count() -> int:
        return 0

    @realtime.event("notes.added", name="note_added")
    async def added(event: MeshEvent) -> None: ...

    async def check(caller: Caller) -> bool:
        return True

    realtime.expose("ledger", methods=["read"], check=check)
    lines = {str(one) for one in await diagnose(create_app(settings, realtime).state.bff)}
    assert {
        "ok   browsers may call invoices.list, scopes: invoices, read",
        "ok   browsers may call invoices.get_*, scopes: invoices, read",
        "ok   browsers may call notes.add, scopes: notes",
        "ok   browsers may call notes.list, scopes: none",
        "ok   browsers may call ledger.read, scopes: none",
        "warn browsers may call echo.say, scopes: none (open to every signed-in user: pass "
        "scopes= or check= to its expose())",
        "ok   browsers may subscribe to notes.*, scopes: admin, notes",
        "ok   browsers may subscribe to news, scopes: none",
        "ok   services may call count",
        "ok   mesh events notes.added are handled by note_added",
    } <= lines, lines
