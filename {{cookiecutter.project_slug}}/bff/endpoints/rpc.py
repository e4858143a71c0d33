"""`POST /rpc/{service}/{method}`: the `request` frame of the WebSocket, over HTTP."""

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
    timeout_ms: Annotated[int | None, Query(gt=0, description="Timeout in milliseconds")] = None,
) -> Any:
    """Call a method as a `request` frame does: same methods, scopes, timeouts and error codes."""
    call = Call(service=service, method=method, params=params or {}, timeout_ms=timeout_ms)
    return await dispatcher.call(caller, call)
