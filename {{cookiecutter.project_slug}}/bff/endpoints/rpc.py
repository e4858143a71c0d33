"""`POST /rpc/{service}/{method}`: the `request` frame of the WebSocket, over HTTP."""

from __future__ import annotations

import logging
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response

from bff.connections.frames import encode
from bff.connections.messages import Call
from bff.endpoints.dependencies import BffDep, CallerDep, DispatcherDep
from bff.endpoints.json_body import read_json_body
from bff.errors import Code, Outcome, Problem
from bff.names import Name
from bff.problems import responses

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/rpc", tags=["rpc"])

_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [{"type": "object", "additionalProperties": True}, {"type": "null"}],
                    "title": "Params",
                    "description": "The method's parameters",
                    "examples": [{"item": "tea", "quantity": 2}],
                }
            }
        }
    }
}


@router.post(
    "/{service}/{method}",
    summary="Call a method",
    responses=responses(401, 403, 404, 422, 429, 502, 503, 504),
    openapi_extra=_BODY,
)
async def call_method(
    service: Name,
    method: Name,
    request: Request,
    caller: CallerDep,
    dispatcher: DispatcherDep,
    bff: BffDep,
    timeout_ms: Annotated[int | None, Query(gt=0, description="Timeout in milliseconds")] = None,
) -> Any:
    """Call a method as a `request` frame does: same methods, scopes, timeouts and error codes."""
    dispatcher.check_call(caller, service, method)
    params = await read_json_body(request, bff.settings)
    if params is not None and not isinstance(params, dict):
        raise Problem(Code.INVALID_PARAMS, "body: must be a JSON object")
    call = Call(service=service, method=method, params=params or {}, timeout_ms=timeout_ms)
    result = await dispatcher.call(caller, call)
    try:
        body = encode(result)
    except TypeError as error:
        logger.exception("result is not JSON", extra={"handler": f"{service}.{method}"})
        raise Problem(Code.SERVICE_ERROR, outcome=Outcome.DONE) from error
    return Response(body, media_type="application/json")
