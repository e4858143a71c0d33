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
from bff.db import migrate
from bff.redis.client import UNAVAILABLE, why

_CHECK_SECONDS = 2.0

OwnCheck = Callable[[], Awaitable[str]]
"""Returns the reason why the check fails, or an empty string."""


class Check(BaseModel):
    """The result of one check."""

    ok: bool
    reason: str = ""
    """Why the check fails; empty when it does not."""


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
    mesh = bff.mesh.status
    reasons = {
        "redis": await _redis(bff),
        "mesh": "" if mesh.connected else mesh.reason,
        "database": await _database(bff),
        "instance": "draining" if bff.draining.begun else "",
    }
    for name, check in (own or {}).items():
        reasons[name] = await _with_timeout(check)
    checks = {name: Check(ok=not reason, reason=reason) for name, reason in reasons.items()}
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
    reason = bff.cluster.pubsub_listener.error
    return reason and f"pub/sub not subscribed: {reason}"


async def _database(bff: Bff) -> str:
    return await _with_timeout(lambda: migrate.pending(bff.database.engine))


async def _with_timeout(check: OwnCheck) -> str:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            return await check()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
