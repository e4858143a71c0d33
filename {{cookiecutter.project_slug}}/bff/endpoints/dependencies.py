"""What an endpoint may ask for, by FastAPI's own dependencies."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Security
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection

from bff.application import Bff
from bff.auth.caller import Caller
from bff.auth.mesh_context import mesh_context
from bff.broadcasts.service import BroadcastService
from bff.cluster.index import ConnectionIndex
from bff.cluster.messenger import Messenger
from bff.cluster.presence import Presence
from bff.connections.close_codes import CloseCode
from bff.db.database import Database
from bff.errors import Code, Problem
from bff.mesh.client import MeshClient
from bff.problems import SocketRefused
from bff.realtime.dispatcher import Dispatcher
from bff.redis.client import UNAVAILABLE
from bff.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Bearer(HTTPBearer):
    """Only tells OpenAPI how to sign in: the endpoint asks the `Authenticator` itself."""

    def __init__(self) -> None:
        super().__init__(scheme_name="token", bearerFormat="JWT", auto_error=False)

    async def __call__(self, connection: HTTPConnection) -> Any:
        return None


def bff_of(connection: HTTPConnection) -> Bff:
    """The BFF that serves a request or a handshake."""
    bff: Bff = connection.app.state.bff
    return bff


async def current_bff(connection: HTTPConnection) -> Bff:
    """As a dependency."""
    return bff_of(connection)


class CurrentCaller(Bearer):
    """The caller of a request or of a WebSocket handshake."""

    async def __call__(self, connection: HTTPConnection) -> Caller:  # type: ignore[override]
        """
        Raises:
            Problem: `unauthenticated`, `forbidden`, `service_unavailable`.
            SocketRefused: the same for a handshake that is to be accepted and closed with a code,
                because browsers do not show their pages the status of a refused one.
        """
        bff = bff_of(connection)
        if connection.scope["type"] != "websocket":
            return await bff.authenticator.authenticate(connection)
        if bff.draining.begun:
            raise Problem(Code.SERVICE_UNAVAILABLE, "This instance is going away")
        try:
            return await bff.authenticator.authenticate_socket(connection)
        except Problem as problem:
            if problem.code is Code.FORBIDDEN:
                raise
            signed_out = problem.code is Code.UNAUTHENTICATED
            code = CloseCode.NOT_AUTHENTICATED if signed_out else CloseCode.SERVER_ERROR
            raise SocketRefused(code, problem.description) from None
        except UNAVAILABLE as error:
            logger.warning("connection refused: Redis is away: %s: %s", type(error).__name__, error)
            raise SocketRefused(CloseCode.SERVER_ERROR, "Try again") from None


BffDep = Annotated[Bff, Depends(current_bff)]
CallerDep = Annotated[Caller, Security(CurrentCaller())]


def requires(*scopes: str) -> Callable[[Caller], Awaitable[Caller]]:
    """A dependency: the caller, who has all of these scopes.

    `dependencies=[Depends(requires("admin"))]`, or `Annotated[Caller, Depends(requires("admin"))]`.
    """

    async def caller_with_scopes(caller: CallerDep) -> Caller:
        caller.require(*scopes)
        return caller

    return caller_with_scopes


def provided(kind: type[T]) -> Callable[[HTTPConnection], Awaitable[T]]:
    """A dependency: the app's own settings, or a resource of `Bff(provide=...)`, by its type.

    `BillingDep = Annotated[Billing, Depends(provided(Billing))]`.
    """

    async def resource(connection: HTTPConnection) -> T:
        return bff_of(connection).provided(kind)

    return resource


def _part(get: Callable[[Bff], T]) -> Any:
    async def part(connection: HTTPConnection) -> T:
        return get(bff_of(connection))

    return Depends(part)


async def _mesh(connection: HTTPConnection, caller: CallerDep) -> MeshClient:
    bff = bff_of(connection)
    return bff.mesh.with_context(mesh_context(caller, bff.settings))


AdminDep = Annotated[Caller, Depends(requires("admin"))]
BroadcastsDep = Annotated[BroadcastService, _part(lambda bff: bff.broadcasts)]
DatabaseDep = Annotated[Database, _part(lambda bff: bff.database)]
DispatcherDep = Annotated[Dispatcher, _part(lambda bff: bff.dispatcher)]
IndexDep = Annotated[ConnectionIndex, _part(lambda bff: bff.index)]
MeshDep = Annotated[MeshClient, Depends(_mesh)]
"""The mesh, called in the caller's name."""
MessengerDep = Annotated[Messenger, _part(lambda bff: bff.messenger)]
MetricsDep = Annotated[Metrics, _part(lambda bff: bff.metrics)]
PresenceDep = Annotated[Presence, _part(lambda bff: bff.presence)]
