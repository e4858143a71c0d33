"""`/health/live`, `/health/ready` and `/metrics`, for those who operate the BFF."""

from __future__ import annotations

import asyncio
import os

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from pydantic import BaseModel
from starlette.datastructures import State

from app.cluster.redis import UNAVAILABLE, why

router = APIRouter(tags=["health"])

_PING_SECONDS = 2.0


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


@router.get("/health/live", summary="Is the process alive?", responses={503: {"model": Liveness}})
async def live(request: Request, response: Response) -> Liveness:
    """503 when a background task has died: restart the process."""
    alive = all(not task.done() for task in request.app.state.background)
    if not alive:
        response.status_code = 503
    return Liveness(alive=alive)


@router.get(
    "/health/ready", summary="Should it get traffic?", responses={503: {"model": Readiness}}
)
async def ready(request: Request, response: Response) -> Readiness:
    """Names every dependency, and why when it fails."""
    state = request.app.state
    mesh = state.mesh.status
    reasons = {
        "redis": await _redis(state),
        "mesh": "" if mesh.connected else mesh.reason,
        "database": await _database(state),
        "instance": "draining" if state.draining.begun else "",
    }
    checks = {name: Check(ok=not reason, reason=reason) for name, reason in reasons.items()}
    readiness = Readiness(ready=all(check.ok for check in checks.values()), checks=checks)
    if not readiness.ready:
        response.status_code = 503
    return readiness


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """Prometheus' text format; with several workers, of all of them."""
    registry: CollectorRegistry = request.app.state.metrics.registry
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


async def _redis(state: State) -> str:
    try:
        async with asyncio.timeout(_PING_SECONDS):
            await state.redis.ping()
    except UNAVAILABLE as error:
        return why(error)
    if reason := state.index.reason:
        return f"the lease is not renewed: {reason}"
    reason = state.relay.reason
    return reason and f"the relay does not hear: {reason}"


async def _database(state: State) -> str:
    try:
        async with asyncio.timeout(_PING_SECONDS):
            has_schema = await state.database.has_schema()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "" if has_schema else "it has no schema yet: run `bff migrate`"
