"""The JSON body of an HTTP request, read by the same rules as the frames of a WebSocket."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterator
from email.message import Message
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from bff.connections.json_reader import read_json
from bff.endpoints.dependencies import CallerWithScopes, CurrentCaller, bff_of, signed_in
from bff.errors import Code, Problem
from bff.settings import Settings


async def read_json_body(request: Request, settings: Settings) -> Any:
    """The decoded body; None without a body. Call it when the caller is known.

    Raises:
        Problem: `invalid_params`; also when the media type is not JSON, because pages of other
            sites may send such requests without asking (the CORS protocol's "simple" requests).
    """
    body = await request.body()
    if not body:
        return None
    if not _is_json(request.headers.get("content-type", "")):
        raise Problem(Code.INVALID_PARAMS, "body: send it with Content-Type: application/json")
    return _read(body, settings)


class JsonRoute(APIRoute):
    """For `APIRouter(route_class=JsonRoute)`: bodies that FastAPI reads are read by these rules.

    A route that depends on the caller, or on scopes (`requires`), checks them before the body is
    read. FastAPI reads the body before it calls dependencies.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        dependencies = list(_callables(self.dependant))
        needs_caller = any(isinstance(one, CurrentCaller) for one in dependencies)
        scopes = {
            scope
            for one in dependencies
            if isinstance(one, CallerWithScopes)
            for scope in one.scopes
        }

        async def handle_json(request: Request) -> Response:
            if needs_caller:
                await CallerWithScopes(sorted(scopes))(request, await signed_in(request))
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_json


def _callables(dependant: Dependant) -> Iterator[object]:
    yield dependant.call
    for one in dependant.dependencies:
        yield from _callables(one)


class _JsonRequest(Request):
    async def json(self) -> Any:
        """As Python decodes it, so that integers of more than 64 bits remain integers.

        Raises:
            JSONDecodeError: FastAPI answers with 422.
        """
        body = await self.body()
        try:
            _read(body, bff_of(self).settings)
        except Problem as problem:
            raise json.JSONDecodeError(problem.description, "", 0) from None
        return json.loads(body)


def _read(body: bytes, settings: Settings) -> Any:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise Problem(Code.INVALID_PARAMS, "body: must be UTF-8") from None
    return read_json(text, max_depth=settings.max_json_depth, max_keys=settings.max_json_keys)


def _is_json(content_type: str) -> bool:
    message = Message()
    message["content-type"] = content_type
    subtype = message.get_content_subtype()
    is_application = message.get_content_maintype() == "application"
    return is_application and (subtype == "json" or subtype.endswith("+json"))
