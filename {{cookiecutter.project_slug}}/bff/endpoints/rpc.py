"""`/rpc/{service}/{method}`: over HTTP what a `request` frame is over a socket."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query

from bff.connections.messages import Call, Name
from bff.endpoints.dependencies import CallerDep, DispatcherDep
from bff.problems import responses

router = APIRouter(prefix="/rpc", tags=["rpc"])


@router.post(
    "/{service}/{method}",
    summary="Call a method",
    responses=responses(401, 403, 404, 422, 429, 502, 503, 504),
)
async def call_method(
    service: Name,
    method: Name,
    caller: CallerDep,
    dispatcher: DispatcherDep,
    params: Annotated[
        dict[str, Any] | None,
        Body(description="The method's parameters", examples=[{"item": "tea", "quantity": 2}]),
    ] = None,
    timeout_ms: Annotated[int | None, Query(gt=0, description="Milliseconds to wait")] = None,
) -> Any:
    """Answered by the same methods, under the same rules, as a `request` frame."""
    call = Call(service=service, method=method, params=params or {}, timeout_ms=timeout_ms)
    return await dispatcher.request(caller, call)
