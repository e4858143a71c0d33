"""The checks of `bff doctor`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import chain

from bff.application import Bff
from bff.auth.oidc.provider import IdentityProvider
from bff.auth.tokens import TokenVerifier
from bff.cluster.keys import Keys
from bff.db import histories
from bff.db.database import Database
from bff.errors import Problem
from bff.mesh.client import MeshClient
from bff.mesh.connect import connect_mesh
from bff.mesh.describe import ServiceDescription
from bff.mesh.transport import ConnectionLost
from bff.realtime.declarations import Method
from bff.realtime.event_handler_names import EventHandlerNames
from bff.realtime.exposure import Exposure
from bff.realtime.router import RealtimeRouter
from bff.redis import client as redis_client
from bff.redis.eviction import UNKNOWN, EvictionCheck
from bff.redis.pipeline import AutoPipeline
from bff.redis.rights import missing_right
from bff.settings import Settings
from bff.telemetry.metrics import Metrics
from bff.version import __version__

_SECONDS = 5.0
"""How long a check may take."""
_CONNECT_SECONDS = 4.0
"""How long to wait for RabbitMQ. Less than a check, which then still reports the reason."""
_QUEUES_SECONDS = 30.0
"""For the queues of all event handlers and services."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the output."""

    ok: bool
    text: str
    warning: bool = False
    """The check passed, but the operator should look at it."""

    def __str__(self) -> str:
        label = "BAD " if not self.ok else "warn" if self.warning else "ok  "
        return f"{label} {self.text}"


async def diagnose(bff: Bff) -> list[Finding]:
    """Check servers and settings and list what is offered.

    Starts no consumer. Queues are declared as an instance does. The keys and rows that are written
    to try the rights in Redis and in the database do not remain.
    """
    settings = bff.settings
    servers = await asyncio.gather(
        _of_redis(settings),
        _of_mesh(bff),
        _of_database(settings),
        _identity(bff),
        _sign_in(settings),
    )
    return [
        Finding(True, f"bff {__version__}"),
        *chain.from_iterable(servers),
        *_settings(settings),
        *_offered(bff.realtime),
    ]


async def _of_redis(settings: Settings) -> list[Finding]:
    redis = await _check("Redis: reachable, with all rights", "Redis", _redis, settings)
    return [redis, *await _eviction(settings)]


async def _of_mesh(bff: Bff) -> list[Finding]:
    mesh = await _check("mesh: connected, may publish", "mesh", _mesh, bff.settings)
    if not mesh.ok:
        return [mesh]
    return [
        mesh,
        *await _queues(bff),
        *await _unowned_queues(bff),
        *await _encryption(bff.settings, bff.realtime),
    ]


async def _of_database(settings: Settings) -> list[Finding]:
    database = await _check("database: reachable", "database", _database, settings)
    return [database, *await _database_schema_and_rights(settings)]


async def _check(
    good: str, what: str, probe: Callable[[Settings], Awaitable[None]], settings: Settings
) -> Finding:
    try:
        async with asyncio.timeout(_SECONDS):
            await probe(settings)
    except LookupError as error:
        return Finding(False, f"{what}: {error}")
    except TimeoutError:
        return Finding(False, f"{what}: no reply within {_SECONDS:.0f} s")
    except Exception as error:
        return Finding(False, f"{what}: {redis_client.why(error)}")
    return Finding(True, good)


async def _redis(settings: Settings) -> None:
    redis = redis_client.create_client(settings.redis_url)
    pipeline = AutoPipeline(redis)
    try:
        if reason := await missing_right(pipeline, settings.prefix):
            raise LookupError(reason)
        pubsub = await redis_client.create_pubsub(redis)
        try:
            await pubsub.subscribe(f"{settings.prefix}:probe")
            await pubsub.unsubscribe(f"{settings.prefix}:probe")
        finally:
            await pubsub.aclose()
    finally:
        await pipeline.close()
        await redis.aclose()


async def _eviction(settings: Settings) -> list[Finding]:
    """Nothing when Redis is unavailable: `_redis` has reported it."""
    redis = redis_client.create_client(settings.redis_url)
    try:
        async with asyncio.timeout(_SECONDS):
            reason = await EvictionCheck(redis, settings.redis_url).warning()
    except redis_client.UNAVAILABLE:
        return []
    finally:
        await redis.aclose()
    is_unknown = reason.startswith(UNKNOWN)
    text = reason or "keeps all keys (maxmemory-policy noeviction)"
    return [Finding(not reason or is_unknown, f"Redis: {text}", warning=is_unknown)]


async def _mesh(settings: Settings) -> None:
    async with _connected(settings) as mesh:
        await mesh.wait_until_rights_checked()
        if not mesh.status.connected:
            raise LookupError(mesh.status.reason)


async def _queues(bff: Bff) -> list[Finding]:
    """Whether the queues of event handlers and services can be consumed."""
    try:
        async with _connected(bff.settings) as mesh, asyncio.timeout(_QUEUES_SECONDS):
            reasons = await mesh.check_queues(bff.mesh)
    except (ConnectionError, ConnectionLost, TimeoutError) as error:
        return [Finding(False, f"mesh queues: not checked: {redis_client.why(error)}")]
    return [
        Finding(not reason, f"mesh queue {queue}: {reason or 'can be consumed'}")
        for queue, reason in reasons.items()
    ]


async def _unowned_queues(bff: Bff) -> list[Finding]:
    """The queues of event handlers that this version does not have. Nothing when a server is
    unavailable: earlier checks have reported it."""
    redis = redis_client.create_client(bff.settings.redis_url)
    pipeline = AutoPipeline(redis)
    waiting: dict[str, int] = {}
    try:
        names = await EventHandlerNames(pipeline, Keys(bff.settings.prefix)).all()
        unowned = sorted(names - bff.realtime.event_handlers.keys())
        if unowned:
            async with _connected(bff.settings) as mesh, asyncio.timeout(_SECONDS):
                waiting = await mesh.unconsumed_events(unowned)
    except (*redis_client.UNAVAILABLE, ConnectionLost):
        pass
    finally:
        await pipeline.close()
        await redis.aclose()
    advice = "no event handler owns it. Rename the handler back, or delete the queue"
    return [
        Finding(True, f"mesh queue {queue}: {advice}; {count} events wait", warning=True)
        for queue, count in waiting.items()
    ]


async def _identity(bff: Bff) -> list[Finding]:
    if bff.settings.jwks_url is None:
        return []
    verifier = TokenVerifier(bff.settings)
    try:
        count = await verifier.tokens.usable_keys()
    except LookupError as error:
        return [Finding(False, f"keys of the identity provider: {error}")]
    finally:
        await verifier.tokens.close()
    return [Finding(True, f"keys of the identity provider: {count} usable")]


async def _sign_in(settings: Settings) -> list[Finding]:
    """Whether the identity provider of `OIDC_ISSUER` says where users sign in."""
    if settings.oidc_issuer in (None, "memory://"):
        return []
    provider = IdentityProvider(settings)
    try:
        await provider.metadata()
    except Problem:
        return [Finding(False, f"sign-in: {provider.error}")]
    finally:
        await provider.close()
    return [Finding(True, f"sign-in: {settings.oidc_issuer} answers")]


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[MeshClient]:
    mesh = connect_mesh(settings, Metrics())
    await mesh.start()
    try:
        for _ in range(int(_CONNECT_SECONDS * 10)):
            if mesh.status.connected:
                break
            await asyncio.sleep(0.1)
        else:
            raise ConnectionError(mesh.status.reason)
        yield mesh
    finally:
        await mesh.stop()


async def _encryption(settings: Settings, realtime: RealtimeRouter) -> list[Finding]:
    """Ask the exposed services which methods require encrypted calls. Services that do not reply
    are left out."""
    names = {pattern.service for pattern in realtime.patterns.values()}
    names |= {
        name.rpartition(".")[0]
        for name, target in realtime.targets.items()
        if isinstance(target, Exposure)
    }
    found: list[Finding] = []
    with suppress(ConnectionError):
        async with _connected(settings) as mesh:
            for name in sorted(names):
                with suppress(Problem, TimeoutError):
                    async with asyncio.timeout(_SECONDS):
                        found += check_encryption(await mesh.describe(name), realtime)
    return found


def check_encryption(service: ServiceDescription, realtime: RealtimeRouter) -> list[Finding]:
    """Whether exposed methods that require encrypted calls are exposed with `encrypted=True`."""
    found = []
    for method, description in service.methods.items():
        exposure = realtime.find(service.name, method)
        if description.encrypted and isinstance(exposure, Exposure):
            name = f"{service.name}.{method} requires encrypted calls"
            advice = "" if exposure.encrypted else ": pass encrypted=True to its expose()"
            found.append(Finding(not advice, f"{name}{advice}"))
    return found


async def _database(settings: Settings) -> None:
    database = Database(settings)
    try:
        await database.ping()
    finally:
        await database.close()


async def _database_schema_and_rights(settings: Settings) -> list[Finding]:
    """Rights are those of a table, which must exist."""
    name = "database schema"
    schema = await _check(f"{name}: up to date", name, _schema, settings)
    if not schema.ok:
        return [schema]
    if newer := histories.newer(await _applied(settings)):
        schema = Finding(True, f"{name}: {newer}", warning=True)
    name = "database rights"
    return [schema, await _check(f"{name}: complete", name, _database_rights, settings)]


async def _database_rights(settings: Settings) -> None:
    database = Database(settings)
    try:
        if reason := await database.missing_right():
            raise LookupError(reason)
    finally:
        await database.close()


async def _schema(settings: Settings) -> None:
    if reason := histories.pending(await _applied(settings)):
        raise LookupError(reason)


async def _applied(settings: Settings) -> dict[str, histories.Applied]:
    database = Database(settings)
    try:
        return await histories.applied(database.engine)
    finally:
        await database.close()


def _settings(settings: Settings) -> list[Finding]:
    production = settings.environment == "production"
    keys = settings.jwks_url or "JWT_SECRET"
    found = [
        Finding(
            True, f"tokens: verified with {keys}, algorithms {', '.join(settings.jwt_algorithms)}"
        )
    ]
    if settings.mesh_secret is None:
        found.append(Finding(True, "services receive no token: MESH_TOKEN_SECRET is not set"))
    if settings.jwt_audience is None and settings.jwks_url is not None:
        text = "tokens that were issued for other applications may be accepted: set JWT_AUDIENCE"
        found.append(Finding(not production, text, warning=True))
    elif settings.jwt_audience is None:
        found.append(Finding(True, "tokens with an audience are refused: JWT_AUDIENCE is not set"))
    if settings.jwt_issuer is None:
        found.append(Finding(True, "token issuers are not checked: JWT_ISSUER is not set"))
    if settings.allowed_origins:
        found.append(Finding(True, f"allowed origins: {', '.join(settings.allowed_origins)}"))
    else:
        found.append(Finding(False, "no web page may connect: set ALLOWED_ORIGINS"))
    return found


def _offered(realtime: RealtimeRouter) -> list[Finding]:
    offered = [*realtime.targets.items()]
    offered += [(name, pattern.exposure) for name, pattern in realtime.patterns.items()]
    calls = [_call(name, target) for name, target in offered]
    topics = [
        f"browsers may subscribe to {policy.pattern}, "
        f"scopes: {', '.join(sorted(policy.scopes)) or 'none'}"
        for policy in realtime.topic_policies.values()
    ]
    served = [f"services may call {name}" for name in realtime.served_methods]
    handlers = [
        f"mesh events {handler.topic} are handled by {handler.name}"
        for handler in realtime.event_handlers.values()
    ]
    return [*calls, *(Finding(True, text) for text in (*topics, *served, *handlers))]


def _call(name: str, target: Exposure | Method) -> Finding:
    """An exposed method with neither scopes nor a check is open to every signed-in user."""
    scopes = ", ".join(sorted(target.scopes)) or "none"
    is_open = isinstance(target, Exposure) and not target.scopes and target.check is None
    advice = " (open to every signed-in user: pass scopes= or check= to its expose())"
    text = f"browsers may call {name}, scopes: {scopes}{advice if is_open else ''}"
    return Finding(True, text, warning=is_open)
