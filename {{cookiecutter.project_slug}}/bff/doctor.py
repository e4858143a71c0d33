"""What `bff doctor` finds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from bff.application import Bff
from bff.db import migrate
from bff.db.database import Database
from bff.errors import Problem
from bff.mesh import client as mesh_client
from bff.mesh.client import MeshClient
from bff.mesh.describe import ServiceDescription
from bff.realtime.exposure import Exposure
from bff.realtime.router import Method, RealtimeRouter
from bff.redis import client as redis_client
from bff.settings import Settings
from bff.telemetry.metrics import Metrics
from bff.version import __version__

_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis."""

    ok: bool
    text: str
    warning: bool = False
    """It works, but it is worth a second look."""

    def __str__(self) -> str:
        label = "BAD " if not self.ok else "warn" if self.warning else "ok  "
        return f"{label} {self.text}"


async def diagnose(bff: Bff) -> list[Finding]:
    """Look at everything that a BFF needs, without starting it and without changing anything."""
    settings, realtime = bff.settings, bff.realtime
    findings = [
        Finding(True, f"the engine is bff {__version__}"),
        await _check("Redis answers", "Redis", _redis, settings),
        await _check("the mesh is connected", "the mesh", _mesh, settings),
        await _check("the database answers", "the database", _database, settings),
        await _check("the database is at the newest schema", "the schema", _schema, settings),
    ]
    return [
        *findings,
        *_settings(settings),
        *_offers(realtime),
        *await _sealing(settings, realtime),
    ]


async def _check(
    good: str, what: str, probe: Callable[[Settings], Awaitable[None]], settings: Settings
) -> Finding:
    try:
        async with asyncio.timeout(_SECONDS):
            await probe(settings)
    except LookupError as error:
        return Finding(False, f"{what}: {error}")
    except TimeoutError:
        return Finding(False, f"{what}: no answer within {_SECONDS:.0f} s")
    except Exception as error:
        return Finding(False, f"{what}: {type(error).__name__}: {error}")
    return Finding(True, good)


async def _redis(settings: Settings) -> None:
    redis = redis_client.connect(settings.redis_url)
    try:
        await redis.ping()
    finally:
        await redis.aclose()


async def _mesh(settings: Settings) -> None:
    async with _connected(settings):
        pass


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[MeshClient]:
    mesh = mesh_client.connect(settings, Metrics())
    await mesh.start()
    try:
        for _ in range(int(_SECONDS * 8)):
            if mesh.status.connected:
                break
            await asyncio.sleep(0.1)
        else:
            raise ConnectionError(mesh.status.reason)
        yield mesh
    finally:
        await mesh.stop()


async def _sealing(settings: Settings, realtime: RealtimeRouter) -> list[Finding]:
    """What exposed services that can be asked say of encryption; the others say nothing."""
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
                        found += sealing_of(await mesh.describe(name), realtime)
    return found


def sealing_of(service: ServiceDescription, realtime: RealtimeRouter) -> list[Finding]:
    """Whether exposed methods that ask for encrypted calls get them."""
    found = []
    for method, description in service.methods.items():
        exposure = realtime.find(service.name, method)
        if description.encrypted and isinstance(exposure, Exposure):
            name = f"{service.name}.{method} asks for encrypted calls"
            wrong = "" if exposure.encrypted else ": say encrypted=True in its expose"
            found.append(Finding(not wrong, f"{name}{wrong}"))
    return found


async def _database(settings: Settings) -> None:
    database = Database(settings)
    try:
        await database.ping()
    finally:
        await database.close()


async def _schema(settings: Settings) -> None:
    database = Database(settings)
    try:
        if reason := await migrate.pending(database.engine):
            raise LookupError(reason)
    finally:
        await database.close()


def _settings(settings: Settings) -> list[Finding]:
    production = settings.environment == "production"
    keys = settings.jwks_url or "JWT_SECRET"
    found = [
        Finding(
            True, f"tokens are checked with {keys}, algorithms {', '.join(settings.jwt_algorithms)}"
        )
    ]
    if settings.mesh_token_secret is None and settings.jwt_secret is None:
        found.append(Finding(True, "services get no token: MESH_TOKEN_SECRET is empty"))
    if settings.jwt_audience is None:
        found.append(Finding(True, "tokens for an audience are refused: JWT_AUDIENCE is empty"))
    if settings.jwt_issuer is None and settings.jwks_url is None:
        found.append(Finding(True, "JWT_SECRET alone says who issued a token: JWT_ISSUER is empty"))
    elif settings.jwt_issuer is None:
        found.append(Finding(not production, "tokens of any issuer are good: set JWT_ISSUER"))
    if settings.allowed_origins:
        found.append(
            Finding(
                True, f"pages of these origins may connect: {', '.join(settings.allowed_origins)}"
            )
        )
    else:
        found.append(Finding(False, "no page of any origin may connect: set ALLOWED_ORIGINS"))
    return found


def _offers(realtime: RealtimeRouter) -> list[Finding]:
    offered = [*realtime.targets.items()]
    offered += [(name, pattern.exposure) for name, pattern in realtime.patterns.items()]
    calls = [_call(name, target) for name, target in offered]
    topics = [
        f"a browser may follow {rule.pattern}, scopes: {', '.join(sorted(rule.scopes)) or 'none'}"
        for rule in realtime.topics.values()
    ]
    served = [f"a service of the mesh may call {name} here" for name in realtime.served]
    rules = [
        f"mesh events {rule.topic} go to the rule {rule.name}" for rule in realtime.rules.values()
    ]
    return [*calls, *(Finding(True, text) for text in (*topics, *served, *rules))]


def _call(name: str, target: Exposure | Method) -> Finding:
    """An exposed method without scopes is open to every user who can sign in."""
    scopes = ", ".join(sorted(target.scopes)) or "none"
    is_open = isinstance(target, Exposure) and not target.scopes and target.check is None
    advice = ": every signed-in user may; name scopes= or check= in its expose" if is_open else ""
    return Finding(True, f"a browser may call {name}, scopes: {scopes}{advice}", warning=is_open)
