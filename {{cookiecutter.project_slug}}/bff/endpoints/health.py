"""What `/health/live`, `/health/ready` and `/metrics` answer."""

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
"""Returns why the check fails, or an empty text."""


class Check(BaseModel):
    """One thing the BFF depends on."""

    ok: bool
    reason: str = ""
    """Why not, in words."""


class Readiness(BaseModel):
    """Whether this instance should get traffic."""

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
    """Whether this process still works."""

    alive: bool


async def liveness(bff: Bff, response: Response) -> Liveness:
    """503 when a background task has died: restart the process."""
    alive = bff.background.alive
    if not alive:
        response.status_code = 503
    return Liveness(alive=alive)


async def readiness(
    bff: Bff, response: Response, own: Mapping[str, OwnCheck] | None = None
) -> Readiness:
    """Every dependency by name, with the reason when it fails; 503 when one does.

    `own` are your checks, each of which has 2 s.
    """
    mesh = bff.mesh.status
    reasons = {
        "redis": await _redis(bff),
        "mesh": "" if mesh.connected else mesh.reason,
        "database": await _database(bff),
        "instance": "draining" if bff.draining.begun else "",
    }
    for name, check in (own or {}).items():
        reasons[name] = await _within_time(check)
    checks = {name: Check(ok=not reason, reason=reason) for name, reason in reasons.items()}
    ready = Readiness(ready=all(check.ok for check in checks.values()), checks=checks)
    if not ready.ready:
        response.status_code = 503
    return ready


def metrics(bff: Bff) -> Response:
    """Prometheus' text format: the engine's metrics and those of your own that are in the default
    registry; with several workers, of all of them."""
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
    if reason := bff.index.reason:
        return f"the lease is not renewed: {reason}"
    reason = bff.cluster.listener.reason
    return reason and f"the relay does not hear: {reason}"


async def _database(bff: Bff) -> str:
    return await _within_time(lambda: migrate.pending(bff.database.engine))


async def _within_time(check: OwnCheck) -> str:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            return await check()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
