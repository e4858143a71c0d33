"""FastAPI dependencies: the caller, the parts of the engine, and the app's own resources."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, Final, TypeVar

from fastapi import Depends, Security
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection

from bff.application import Bff
from bff.audit.log import AuditOutcome
from bff.auth.access_token import AccessToken
from bff.auth.authenticator import SAFE_METHODS
from bff.auth.caller import Caller
from bff.auth.mesh_context import mesh_context
from bff.auth.revocations import SessionEnded
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
from bff.redis.client import UNAVAILABLE, why
from bff.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")

_CALLER: Final = "bff.caller"
"""Key of the scope of an HTTP request for its caller."""


_ADMIN: Final = "admin"
"""The scope of administrators."""
_MAX_PATH: Final = 200
"""Characters of a path that are recorded."""


class Bearer(HTTPBearer):
    """Declares the bearer token in OpenAPI. The `Authenticator` checks it, not this class."""

    def __init__(self) -> None:
        super().__init__(scheme_name="token", bearerFormat="JWT", auto_error=False)

    async def __call__(self, connection: HTTPConnection) -> Any:
        return None


def bff_of(connection: HTTPConnection) -> Bff:
    """The `Bff` of the app that serves a request or a handshake."""
    bff: Bff = connection.app.state.bff
    return bff


async def current_bff(connection: HTTPConnection) -> Bff:
    """`bff_of` as a dependency."""
    return bff_of(connection)


class CurrentCaller(Bearer):
    """The caller of a request or of a WebSocket handshake."""

    async def __call__(self, connection: HTTPConnection) -> Caller:  # type: ignore[override]
        """
        Raises:
            Problem: `unauthenticated`, `forbidden`, `rate_limited`, `service_unavailable`.
            SocketRefused: the handshake is accepted, then closed with a code, because browsers
                do not show the HTTP status of a refused handshake to the page.
        """
        bff = bff_of(connection)
        if connection.scope["type"] != "websocket":
            return await signed_in(connection)
        if bff.draining.begun:
            raise Problem(Code.SERVICE_UNAVAILABLE, "This instance is shutting down: reconnect")
        bff.handshake_limit.check(address_of(connection))
        try:
            return await bff.authenticator.authenticate_socket(connection)
        except Problem as problem:
            log_refused(connection, problem)
            if problem.code is Code.FORBIDDEN:
                raise
            raise SocketRefused(_close_code_of(problem), problem.description) from None
        except UNAVAILABLE as error:
            logger.warning(
                "client connection refused: Redis unavailable", extra={"reason": why(error)}
            )
            raise SocketRefused(CloseCode.SERVER_ERROR, "Try again") from None


async def signed_in(request: HTTPConnection) -> Caller:
    """The caller of an HTTP request, which is checked and counted once, like a frame.

    Raises:
        Problem: `unauthenticated`, `forbidden`, `rate_limited`, `service_unavailable`.
    """
    known: Caller | None = request.scope.get(_CALLER)
    if known is not None:
        return known
    bff = bff_of(request)
    try:
        caller = await bff.authenticator.authenticate(request)
    except Problem as problem:
        log_refused(request, problem)
        raise
    try:
        bff.allowances.check(caller.user_id)
    except Problem as problem:
        bff.metrics.http_rate_limited.inc()
        log_refused(request, problem, caller)
        raise
    request.scope[_CALLER] = caller
    return caller


def log_refused(connection: HTTPConnection, problem: Problem, caller: Caller | None = None) -> None:
    """Log a request or a handshake that was refused: why, from where, and whose it was."""
    logger.info(
        "request refused",
        extra={
            "code": str(problem.code),
            "address": address_of(connection),
            "user": caller.user_id if caller else None,
            "reason": problem.description,
        },
    )


def _close_code_of(problem: Problem) -> CloseCode:
    """The code that closes the socket of a handshake which was not authenticated."""
    if isinstance(problem, SessionEnded):
        return CloseCode.SESSION_ENDED
    if problem.code is Code.UNAUTHENTICATED:
        return CloseCode.NOT_AUTHENTICATED
    return CloseCode.SERVER_ERROR


def address_of(connection: HTTPConnection) -> str:
    """The client's IP address, which behind a trusted proxy comes from its headers."""
    return connection.client.host if connection.client else ""


BffDep = Annotated[Bff, Depends(current_bff)]
CallerDep = Annotated[Caller, Security(CurrentCaller())]


class CallerWithScopes:
    """The caller, if the token has all of these scopes."""

    def __init__(self, scopes: Sequence[str]) -> None:
        self.scopes = scopes

    async def __call__(self, connection: HTTPConnection, caller: CallerDep) -> Caller:
        try:
            caller.require(*self.scopes)
        except Problem as problem:
            log_refused(connection, problem, caller)
            if _ADMIN in set(self.scopes) - caller.scopes:
                _record_refused_act(connection, caller)
            raise
        return caller


def _record_refused_act(connection: HTTPConnection, caller: Caller) -> None:
    """Record a request that would have been an act of an administrator. Reading is no act."""
    method = connection.scope.get("method", "GET")
    if method not in SAFE_METHODS:
        bff_of(connection).audit.record(
            "admin_request",
            outcome=AuditOutcome.REFUSED,
            actor=caller.user_id,
            address=address_of(connection),
            method=method,
            path=connection.url.path[:_MAX_PATH],
        )


def requires(*scopes: str) -> Callable[..., Awaitable[Caller]]:
    """A dependency: the caller, if the token has all of these scopes.

    `dependencies=[Depends(requires("admin"))]`, or `Annotated[Caller, Depends(requires("admin"))]`.
    """
    return CallerWithScopes(scopes)


def provided(kind: type[T]) -> Callable[[HTTPConnection], Awaitable[T]]:
    """A dependency: the app's settings, or a resource of `Bff(provide=...)`, by its type.

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


async def _access_token(connection: HTTPConnection, caller: CallerDep) -> AccessToken:
    return await bff_of(connection).access_token(caller)


AccessTokenDep = Annotated[AccessToken, Depends(_access_token)]
"""The access token of the caller's session, for HTTP services that want it."""
AdminDep = Annotated[Caller, Depends(requires(_ADMIN))]
BroadcastsDep = Annotated[BroadcastService, _part(lambda bff: bff.broadcasts)]
DatabaseDep = Annotated[Database, _part(lambda bff: bff.database)]
DispatcherDep = Annotated[Dispatcher, _part(lambda bff: bff.dispatcher)]
IndexDep = Annotated[ConnectionIndex, _part(lambda bff: bff.index)]
MeshDep = Annotated[MeshClient, Depends(_mesh)]
"""A mesh client whose calls carry the caller's context."""
MessengerDep = Annotated[Messenger, _part(lambda bff: bff.messenger)]
MetricsDep = Annotated[Metrics, _part(lambda bff: bff.metrics)]
PresenceDep = Annotated[Presence, _part(lambda bff: bff.presence)]
