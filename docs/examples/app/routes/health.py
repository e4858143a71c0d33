"""`/health/live`, `/health/ready` and `/metrics`, for operators."""

from __future__ import annotations

from fastapi import APIRouter, Response

from app.dependencies import BillingDep
from bff.endpoints import BffDep, Liveness, Readiness, liveness, metrics, readiness

router = APIRouter(tags=["health"])


@router.get("/health/live", summary="Is the process alive?", responses={503: {"model": Liveness}})
async def live(bff: BffDep, response: Response) -> Liveness:
    return await liveness(bff, response)


@router.get(
    "/health/ready", summary="Should it get traffic?", responses={503: {"model": Readiness}}
)
async def ready(bff: BffDep, billing: BillingDep, response: Response) -> Readiness:
    return await readiness(bff, response, own={"billing": billing.unreachable})


@router.get("/metrics", include_in_schema=False)
async def read_metrics(bff: BffDep) -> Response:
    return metrics(bff)
