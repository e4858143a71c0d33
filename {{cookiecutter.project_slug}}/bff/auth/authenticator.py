"""Authenticates HTTP requests and WebSocket handshakes."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple
from urllib.parse import unquote

from starlette.requests import HTTPConnection

from bff.auth.caller import Caller
from bff.auth.origins import Origins, origin_of
from bff.auth.tickets import Tickets
from bff.auth.tokens import TokenVerifier
from bff.errors import Code, Problem
from bff.settings import Settings

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_PREFIX = re.compile(r"bearer(?:\s*:\s*|\s+)", re.IGNORECASE)


class _Credential(NamedTuple):
    kind: Literal["ticket", "header", "cookie"]
    value: str


class Authenticator:
    """Only the first credential found is checked. Tokens in URLs are ignored: URLs are logged.

    Browsers send cookies with requests of every page. So a cookie is accepted only together with
    an `Origin` header from `ALLOWED_ORIGINS`.
    """

    def __init__(self, settings: Settings, verifier: TokenVerifier, tickets: Tickets) -> None:
        self._cookie = settings.auth_cookie
        self._origins = Origins(settings.allowed_origins)
        self._verifier = verifier
        self._tickets = tickets

    def check_origin(self, connection: HTTPConnection) -> None:
        """Check the origin of a handshake, before the socket is accepted.

        Raises:
            Problem: `forbidden` if the origin is not allowed, or missing where there is a cookie.
        """
        self._check_origin(connection, self._find(connection, with_ticket=True))

    def _check_origin(self, connection: HTTPConnection, credential: _Credential | None) -> None:
        by_cookie = credential is not None and credential.kind == "cookie"
        self._origins.check(connection, required=by_cookie)

    async def authenticate_socket(self, connection: HTTPConnection) -> Caller:
        """The caller of a handshake, by `?ticket=`, else by header, else by cookie.

        Raises:
            Problem: `unauthenticated`; `forbidden` because of the origin; `service_unavailable`
                while the keys of the identity provider have never been fetched.
        """
        credential = self._find(connection, with_ticket=True)
        self._check_origin(connection, credential)
        return await self._authenticate(connection, credential)

    async def authenticate_stream(self, connection: HTTPConnection) -> Caller:
        """The caller of an event stream, by header, else by cookie.

        Browsers send no `Origin` with a GET to the page's own origin, but `Sec-Fetch-Site:
        same-origin` (Fetch Metadata), which pages cannot set.

        Raises:
            Problem: as `authenticate_socket`.
        """
        credential = self._find(connection, with_ticket=False)
        by_cookie = credential is not None and credential.kind == "cookie"
        own_page = connection.headers.get("sec-fetch-site") == "same-origin"
        self._origins.check(connection, required=by_cookie and not own_page)
        return await self._authenticate(connection, credential)

    async def authenticate(self, connection: HTTPConnection) -> Caller:
        """The caller of an HTTP request, by header, else by cookie.

        Raises:
            Problem: as `authenticate_socket`.
        """
        credential = self._find(connection, with_ticket=False)
        method = connection.scope.get("method")
        if credential and credential.kind == "cookie" and method not in _SAFE_METHODS:
            self._origins.check(connection, required=True)
        return await self._authenticate(connection, credential)

    async def _authenticate(
        self, connection: HTTPConnection, credential: _Credential | None
    ) -> Caller:
        if credential is None:
            raise Problem(Code.UNAUTHENTICATED)
        if credential.kind == "ticket":
            return await self._tickets.redeem(credential.value, origin_of(connection))
        return await self._verifier.verify(credential.value)

    def _find(self, connection: HTTPConnection, *, with_ticket: bool) -> _Credential | None:
        has_query = bool(connection.scope.get("query_string"))
        if with_ticket and has_query and (ticket := connection.query_params.get("ticket")):
            return _Credential("ticket", ticket)
        if header := connection.headers.get("authorization"):
            return _Credential("header", _without_prefix(header))
        if cookie := connection.cookies.get(self._cookie):
            self._check_single(connection)
            return _Credential("cookie", _without_prefix(unquote(cookie)))
        return None

    def _check_single(self, connection: HTTPConnection) -> None:
        """A page of a sibling host can set a second cookie of the name for the whole domain. Which
        of the two counts must not depend on their order (RFC 6265, section 4.2.2).

        Raises:
            Problem: `unauthenticated`.
        """
        cookies = ";".join(connection.headers.getlist("cookie")).split(";")
        if sum(cookie.partition("=")[0].strip() == self._cookie for cookie in cookies) > 1:
            raise Problem(
                Code.UNAUTHENTICATED, f"There are two cookies {self._cookie}: delete one of them"
            )


def _without_prefix(value: str) -> str:
    """The token from `Bearer x` or `x`, or from `Bearer :x` or `Bearer:x` as in `nuropb_gw`."""
    value = value.strip()
    prefix = _PREFIX.match(value)
    return value[prefix.end() :] if prefix else value
