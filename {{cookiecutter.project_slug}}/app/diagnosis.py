"""What `bff doctor` finds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from app import routes
from app.cluster import redis as cluster_redis
from app.db import migrate
from app.db.database import Database
from app.errors import Problem
from app.mesh import client as mesh_client
from app.mesh.client import MeshClient
from app.mesh.describe import ServiceDescription
from app.realtime.exposure import Exposure
from app.realtime.router import RealtimeRouter
from app.settings import Settings
from app.telemetry.metrics import Metrics

_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the diagnosis."""

    ok: bool
    text: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.ok else 'BAD '} {self.text}"


async def diagnose(settings: Settings) -> list[Finding]:
    """Look at everything the BFF needs, changing nothing."""
    findings = [
        await _check("Redis answers", "Redis", _redis, settings),
        await _check("the mesh is connected", "the mesh", _mesh, settings),
        await _check("the database answers", "the database", _database, settings),
        await _check("the database is at the newest schema", "the schema", _schema, settings),
    ]
    realtime = RealtimeRouter()
    for router in routes.REALTIME:
        realtime.include(router)
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
    redis = cluster_redis.connect(settings.redis_url)
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
    if not await migrate.is_current(settings):
        raise LookupError("run `bff migrate`")


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
    calls = [
        f"a browser may call {name}, scopes: {', '.join(sorted(target.scopes)) or 'none'}"
        for name, target in offered
    ]
    topics = [
        f"a browser may follow {rule.pattern}, scopes: {', '.join(sorted(rule.scopes)) or 'none'}"
        for rule in realtime.topics.values()
    ]
    served = [f"a service of the mesh may call {name} here" for name in realtime.served]
    rules = [
        f"mesh events {rule.topic} go to the rule {rule.name}" for rule in realtime.rules.values()
    ]
    return [Finding(True, text) for text in (*calls, *topics, *served, *rules)]
