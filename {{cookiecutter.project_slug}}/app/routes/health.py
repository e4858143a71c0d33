"""`/health/live`, `/health/ready` and `/metrics`, for operators."""

from __future__ import annotations

from fastapi import APIRouter, Response

from bff.endpoints import BffDep, Liveness, Readiness, liveness, metrics, readiness

router = APIRouter(tags=["health"])


@router.get("/health/live", summary="Is the process alive?", responses={503: {"model": Liveness}})
async def live(bff: BffDep, response: Response) -> Liveness:
    return await liveness(bff, response)


@router.get(
    "/health/ready", summary="Should it get traffic?", responses={503: {"model": Readiness}}
)
async def ready(bff: BffDep, response: Response) -> Readiness:
    """Add your own checks to `own`: name to an async function without parameters. It returns the
    reason of the failure, or an empty string."""
    return await readiness(bff, response, own={})


@router.get("/metrics", include_in_schema=False)
async def read_metrics(bff: BffDep) -> Response:
    return metrics(bff)
