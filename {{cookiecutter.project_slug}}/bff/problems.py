"""Every error over HTTP as `application/problem+json` (RFC 9457), with nothing leaked."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from redis.exceptions import RedisError
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ExceptionHandler
from starlette.websockets import WebSocket, WebSocketState

from bff.connections.asgi_transport import accept
from bff.connections.close_codes import CloseCode
from bff.errors import Code, Outcome, Problem

logger = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_MAX_DETAIL = 300
_STORE_IN_TROUBLE = (
    RedisError,
    OperationalError,
    InterfaceError,
    PoolTimeoutError,
)


class SocketRefused(Exception):
    """A handshake that is accepted and then closed with a code, so that a page can read why."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class ProblemDetails(BaseModel):
    """An error."""

    type: str
    title: str
    status: int
    detail: str
    code: Code
    retryable: bool
    """Repeating later can help and cannot do the work twice."""
    outcome: Outcome


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For `responses=` of a route or a router: the errors it may answer with, with examples."""
    documented: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        codes = [code for code in Code if code.status == status]
        documented[status] = {
            "description": HTTPStatus(status).phrase,
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": f"#/components/schemas/{ProblemDetails.__name__}"},
                    "examples": {
                        code.value: {"value": Problem(code).as_problem_json()} for code in codes
                    },
                }
            },
        }
    return documented


def problem_response(problem: Problem) -> Response:
    """A problem as an HTTP response."""
    headers = {"WWW-Authenticate": "Bearer"} if problem.code is Code.UNAUTHENTICATED else None
    return _response(problem.status, problem.as_problem_json(), headers)


def install(app: FastAPI) -> None:
    """Make the app answer every error this way, and say so in its OpenAPI document."""
    app.add_exception_handler(Problem, _handler(_of_problem))
    app.add_exception_handler(SocketRefused, _refuse)
    app.add_exception_handler(RequestValidationError, _handler(_of_invalid_request))
    app.add_exception_handler(HTTPException, _handler(_of_http_exception))
    for kind in _STORE_IN_TROUBLE:
        app.add_exception_handler(kind, _handler(_of_store_in_trouble))
    app.add_exception_handler(Exception, _handler(_of_bug))
    _complete_openapi(app)


def _complete_openapi(app: FastAPI) -> None:
    """Add the schema of problems, which no route names as its model."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schema = ProblemDetails.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs"))
        schemas[ProblemDetails.__name__] = schema
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _handler(render: Callable[[HTTPConnection, Any], Response]) -> ExceptionHandler:
    """A handler for requests and for sockets.

    A socket that is not accepted yet is refused with the response, a later one is closed.
    """

    async def handle(connection: HTTPConnection, error: Exception) -> Response | None:
        response = render(connection, error)
        if not isinstance(connection, WebSocket):
            return response
        if connection.application_state is not WebSocketState.CONNECTING:
            await connection.close(CloseCode.SERVER_ERROR)
        elif "websocket.http.response" in connection.scope.get("extensions", {}):
            await connection.send_denial_response(response)
        else:
            await connection.close()
        return None

    return cast("ExceptionHandler", handle)


async def _refuse(websocket: Any, refused: Any) -> None:
    await accept(websocket)
    await websocket.close(refused.code, refused.reason)


def _of_problem(_: HTTPConnection, problem: Problem) -> Response:
    return problem_response(problem)


def _of_invalid_request(_: HTTPConnection, error: RequestValidationError) -> Response:
    """What is wrong and where, without the value that was given."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ")
    return problem_response(Problem(Code.INVALID_PARAMS, f"{where}: {what}"[:_MAX_DETAIL]))


def _of_http_exception(_: HTTPConnection, error: HTTPException) -> Response:
    """What Starlette, FastAPI or a route raises with a bare status."""
    code = _code_of(error.status_code)
    if code is None:
        return Response(None, error.status_code, error.headers)
    body = Problem(code, str(error.detail)).as_problem_json()
    if error.status_code != code.status:
        title = HTTPStatus(error.status_code).phrase
        body |= {"type": "about:blank", "title": title, "status": error.status_code}
    return _response(error.status_code, body, error.headers)


def _of_store_in_trouble(connection: HTTPConnection, error: Exception) -> Response:
    logger.warning("a store is in trouble: %s", type(error).__name__, exc_info=error)
    safe = connection.scope.get("method", "GET") in _SAFE_METHODS
    outcome = Outcome.NOT_SENT if safe else Outcome.UNKNOWN
    return problem_response(
        Problem(Code.SERVICE_UNAVAILABLE, "A part of this service is away", outcome=outcome)
    )


def _of_bug(_: HTTPConnection, _error: Exception) -> Response:
    """Nothing is logged here: Starlette raises the exception again, and the server logs it."""
    return problem_response(Problem(Code.INTERNAL, outcome=Outcome.UNKNOWN))


def _code_of(status: int) -> Code | None:
    """The code that comes nearest to a status; None when the status is no error."""
    if status < HTTPStatus.BAD_REQUEST:
        return None
    for code in Code:
        if code.status == status:
            return code
    return Code.INVALID_PARAMS if status < HTTPStatus.INTERNAL_SERVER_ERROR else Code.INTERNAL


def _response(status: int, body: dict[str, Any], headers: Mapping[str, str] | None) -> Response:
    return Response(json.dumps(body), status, headers, media_type=MEDIA_TYPE)
