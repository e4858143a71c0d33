"""The responses of `/health/live`, `/health/ready` and `/metrics`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping

from fastapi import Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from pydantic import BaseModel

from bff.application import Bff
from bff.db import histories
from bff.redis.client import UNAVAILABLE, why
from bff.redis.rights import missing_right

_CHECK_SECONDS = 2.0

OwnCheck = Callable[[], Awaitable[str]]
"""Returns the reason why the check fails, or an empty string."""


class Check(BaseModel):
    """The result of one check."""

    ok: bool
    reason: str = ""
    """Why the check fails, or a warning; empty when all is well."""


class Readiness(BaseModel):
    """Whether a load balancer should send traffic to this instance."""

    ready: bool
    checks: dict[str, Check]

    model_config = {
        "json_schema_extra": {
            "examples": [
                {"ready": False, "checks": {"mesh": {"ok": False, "reason": "connection refused"}}}
            ]
        }
    }


class Liveness(BaseModel):
    """Whether this process works; if not, restart it."""

    alive: bool


async def liveness(bff: Bff, response: Response) -> Liveness:
    """Respond 503 when a background task has died."""
    alive = bff.background.alive
    if not alive:
        response.status_code = 503
    return Liveness(alive=alive)


async def readiness(
    bff: Bff, response: Response, own: Mapping[str, OwnCheck] | None = None
) -> Readiness:
    """Check Redis, the mesh, the database and this instance; respond 503 when a check fails.

    `own` are your checks, by name. Each fails after 2 s.
    """
    reasons = {
        "redis": await _redis(bff),
        "mesh": _mesh(bff),
        "database": await _database(bff),
        "instance": "draining" if bff.draining.begun else "",
    }
    if bff.settings.jwks_url is not None:
        reasons["identity"] = await _identity(bff)
    for name, check in (own or {}).items():
        reasons[name] = await _with_timeout(check)
    checks = {name: Check(ok=not reason, reason=reason) for name, reason in reasons.items()}
    if checks["mesh"].ok:
        # Only operators need to act: the instance still serves its connections.
        checks["mesh"].reason = bff.mesh.stuck
    if checks["redis"].ok:
        # The same: Redis works, until its memory is full.
        checks["redis"].reason = await _redis_warning(bff)
    ready = Readiness(ready=all(check.ok for check in checks.values()), checks=checks)
    if not ready.ready:
        response.status_code = 503
    return ready


def metrics(bff: Bff) -> Response:
    """The engine's metrics and those of the default registry, in Prometheus' text format.

    With `PROMETHEUS_MULTIPROC_DIR`, the metrics of all workers.
    """
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        content = generate_latest(registry)
    else:
        content = generate_latest(bff.metrics.registry) + generate_latest(REGISTRY)
    return Response(content, media_type=CONTENT_TYPE_LATEST)


async def _redis(bff: Bff) -> str:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            await bff.redis.ping()
    except UNAVAILABLE as error:
        return why(error)
    if reason := bff.index.lease_error:
        return f"could not renew lease: {reason}"
    if reason := bff.cluster.pubsub_listener.error:
        return f"pub/sub not subscribed: {reason}"
    return await _with_timeout(lambda: missing_right(bff.cluster.pipeline, bff.settings.prefix))


def _mesh(bff: Bff) -> str:
    status = bff.mesh.status
    if not status.connected:
        return status.reason
    down = bff.mesh.consumers_down.items()
    return "; ".join(f"{queue} is not consumed: {reason}" for queue, reason in down)


async def _identity(bff: Bff) -> str:
    """Keys that were fetched once stay in use, so the provider may be unavailable afterwards."""
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            await bff.verifier.tokens.usable_keys()
    except (LookupError, TimeoutError) as error:
        return f"keys of the identity provider: {str(error) or 'no answer'}"
    return ""


async def _redis_warning(bff: Bff) -> str:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            return await bff.eviction.warning()
    except UNAVAILABLE as error:
        return why(error)


async def _database(bff: Bff) -> str:
    """Rights are tried on PostgreSQL only: in SQLite there are none, and a write would wait for
    others."""
    if reason := await _with_timeout(lambda: _schema(bff)):
        return reason
    if bff.database.engine.dialect.name == "sqlite":
        return ""
    return await _with_timeout(bff.database.missing_right)


async def _schema(bff: Bff) -> str:
    return histories.pending(await histories.applied(bff.database.engine))


async def _with_timeout(check: OwnCheck) -> str:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            return await check()
    except Exception as error:
        return why(error)
