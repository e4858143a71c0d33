"""HTTP error responses as `application/problem+json` (RFC 9457), without internals."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from redis.exceptions import RedisClusterException, RedisError
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketState

from bff.auth.authenticator import SAFE_METHODS
from bff.connections.asgi_transport import accept
from bff.connections.close_codes import CloseCode
from bff.errors import Code, Outcome, Problem
from bff.http_headers import SAFE

logger = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
_MAX_DETAIL = 300
_TOO_LARGE: Final = Code.TOO_LARGE.status
_STORE_ERRORS = (
    RedisError,
    RedisClusterException,
    OperationalError,
    InterfaceError,
    PoolTimeoutError,
)


class SocketRefused(Exception):
    """Accept the handshake, then close with this code and reason.

    Browsers do not show a page why a handshake was rejected, but they show the close code.
    """

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class ProblemDetails(BaseModel):
    """An error response."""

    type: str
    title: str
    status: int
    detail: str
    code: Code
    retryable: bool
    """A retry can succeed and cannot do the work twice."""
    outcome: Outcome
    retry_after_ms: int | None = None
    """A retry can succeed after this time. Absent if it is not known."""


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document the error responses of a route or router: the value of its `responses=`."""
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
    """The HTTP response for a problem."""
    headers = {"WWW-Authenticate": "Bearer"} if problem.code is Code.UNAUTHENTICATED else {}
    if problem.retry_after_seconds is not None:
        headers["Retry-After"] = str(math.ceil(problem.retry_after_seconds))
    return _response(problem.status, problem.as_problem_json(), headers)


def install(app: FastAPI) -> None:
    """Register the error handlers with the app."""
    app.add_exception_handler(Problem, _handler(_of_problem))
    app.add_exception_handler(SocketRefused, _close_after_accept)
    app.add_exception_handler(RequestValidationError, _handler(_of_invalid_request))
    app.add_exception_handler(HTTPException, _handler(_of_http_exception))
    for kind in _STORE_ERRORS:
        app.add_exception_handler(kind, _handler(_of_store_error))
    app.add_exception_handler(Exception, _handler(_of_bug))
    _replace_too_large(app)


def _replace_too_large(app: FastAPI) -> None:
    """FastAPI limits bodies outside of all middleware that can be added to an app."""
    build = app.build_middleware_stack
    app.build_middleware_stack = (  # type: ignore[method-assign]
        lambda: _TooLargeProblems(build())
    )


class _TooLargeProblems:
    """ASGI middleware: replaces the plain text with which Starlette answers a body that is too
    large. An exception handler cannot: Starlette replaces its response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_replaced = False

        async def send_problem(message: Message) -> None:
            nonlocal is_replaced
            if message["type"] == "http.response.start" and message["status"] == _TOO_LARGE:
                content_type = Headers(scope=message).get("content-type", "")
                is_replaced = not content_type.startswith(MEDIA_TYPE)
                if is_replaced:
                    await problem_response(Problem(Code.TOO_LARGE))(scope, receive, send)
            if not is_replaced:
                await send(message)

        await self._app(scope, receive, send_problem)


def _handler(render: Callable[[HTTPConnection, Any], Response]) -> ExceptionHandler:
    """An exception handler for HTTP requests and WebSockets.

    A handshake is rejected with the response; an accepted WebSocket is closed.
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


async def _close_after_accept(websocket: Any, refused: Any) -> None:
    await accept(websocket)
    await websocket.close(refused.code, refused.reason)


def _of_problem(_: HTTPConnection, problem: Problem) -> Response:
    return problem_response(problem)


def _of_invalid_request(_: HTTPConnection, error: RequestValidationError) -> Response:
    """Location and message of the first error, without the invalid value."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        where, what = "body", first["ctx"]["error"]
    return problem_response(Problem(Code.INVALID_PARAMS, f"{where}: {what}"[:_MAX_DETAIL]))


def _of_http_exception(_: HTTPConnection, error: HTTPException) -> Response:
    """An `HTTPException` of Starlette, FastAPI or a route."""
    code = _code_of(error.status_code)
    if code is None:
        return Response(None, error.status_code, error.headers)
    body = Problem(code, str(error.detail)).as_problem_json()
    if error.status_code != code.status:
        title = HTTPStatus(error.status_code).phrase
        body |= {"type": "about:blank", "title": title, "status": error.status_code}
    return _response(error.status_code, body, error.headers)


def _of_store_error(connection: HTTPConnection, error: Exception) -> Response:
    logger.warning(
        "request failed: Redis or database unavailable",
        exc_info=error,
        extra={"error": type(error).__name__},
    )
    safe = connection.scope.get("method", "GET") in SAFE_METHODS
    outcome = Outcome.NOT_SENT if safe else Outcome.UNKNOWN
    return problem_response(
        Problem(Code.SERVICE_UNAVAILABLE, "Redis or the database is unavailable", outcome=outcome)
    )


def _of_bug(_: HTTPConnection, _error: Exception) -> Response:
    """An unexpected exception. Starlette raises it again, and the server logs it."""
    return problem_response(Problem(Code.INTERNAL, outcome=Outcome.UNKNOWN))


def _code_of(status: int) -> Code | None:
    """The closest error code for an HTTP status; None if the status is not an error."""
    if status < HTTPStatus.BAD_REQUEST:
        return None
    for code in Code:
        if code.status == status:
            return code
    return Code.INVALID_PARAMS if status < HTTPStatus.INTERNAL_SERVER_ERROR else Code.INTERNAL


def _response(status: int, body: dict[str, Any], headers: Mapping[str, str] | None) -> Response:
    return Response(json.dumps(body), status, SAFE | dict(headers or {}), media_type=MEDIA_TYPE)
