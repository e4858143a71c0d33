"""What a route asks for: the caller, or the caller with certain scopes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Security
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection

from app.auth.authenticator import Authenticator
from app.auth.caller import Caller


class _Bearer(HTTPBearer):
    """Only tells OpenAPI how to sign in: the `Authenticator` does the work."""

    async def __call__(self, request: HTTPConnection) -> None:
        return None


bearer = _Bearer(scheme_name="token", bearerFormat="JWT", auto_error=False)


async def current_caller(
    connection: HTTPConnection, _: Annotated[None, Security(bearer)]
) -> Caller:
    """The caller of a request or a handshake.

    Raises:
        Problem: `unauthenticated`, `forbidden`, `service_unavailable`.
    """
    authenticator: Authenticator = connection.app.state.authenticator
    if connection.scope["type"] == "websocket":
        return await authenticator.authenticate_socket(connection)
    return await authenticator.authenticate(connection)


CallerDep = Annotated[Caller, Depends(current_caller)]


def requires(*scopes: str) -> Callable[[Caller], Awaitable[Caller]]:
    """A dependency: the caller, who has all of these scopes.

    `dependencies=[Depends(requires("admin"))]`, or `Annotated[Caller, Depends(requires("admin"))]`.
    """

    async def caller_with_scopes(caller: CallerDep) -> Caller:
        caller.require(*scopes)
        return caller

    return caller_with_scopes
