"""Authenticates HTTP requests and WebSocket handshakes."""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple
from urllib.parse import unquote

from starlette.requests import HTTPConnection

from bff.auth.caller import Caller
from bff.auth.origins import Origins, origin_of
from bff.auth.revocations import RevocationCheck, SessionEnded
from bff.auth.session_cookie import SessionCookie, check_single
from bff.auth.session_key import SessionKey
from bff.auth.sessions import SessionStore
from bff.auth.tickets import Tickets
from bff.auth.tokens import TokenVerifier
from bff.errors import Code, Problem
from bff.settings import Settings

PAGE_HEADER: Final = "x-bff"
"""HTTP requests with the cookie of a session must have it, with the value 1."""
SAFE_METHODS: Final = ("GET", "HEAD", "OPTIONS")
"""The methods of requests that change nothing (RFC 9110, section 9.2.1)."""
_PREFIX = re.compile(r"bearer(?:\s*:\s*|\s+)", re.IGNORECASE)


class _Credential(NamedTuple):
    kind: Literal["ticket", "header", "session", "cookie"]
    value: str

    @property
    def is_cookie(self) -> bool:
        return self.kind in ("session", "cookie")


class Authenticator:
    """Only the first credential found is checked. Tokens in URLs are ignored: URLs are logged.

    Browsers send cookies with requests of every page. So a cookie is accepted only together with
    an `Origin` header from `ALLOWED_ORIGINS`. HTTP requests with the cookie of a session need the
    header `X-BFF: 1` too, which pages of other origins cannot send without a CORS preflight.
    Sockets and event streams go by their origin.
    """

    def __init__(
        self,
        settings: Settings,
        verifier: TokenVerifier,
        tickets: Tickets,
        sessions: SessionStore,
        revocations: RevocationCheck,
    ) -> None:
        self._session_cookie = SessionCookie(settings) if settings.oidc_issuer else None
        self._sessions = sessions
        self._cookie = settings.auth_cookie
        self._origins = Origins(settings.allowed_origins)
        self._verifier = verifier
        self._tickets = tickets
        self._revocations = revocations

    def check_origin(self, connection: HTTPConnection) -> None:
        """Check the origin of a handshake, before the socket is accepted.

        Raises:
            Problem: `forbidden` if the origin is not allowed, or missing where there is a cookie.
        """
        self._check_origin(connection, self._find(connection, with_ticket=True))

    def _check_origin(self, connection: HTTPConnection, credential: _Credential | None) -> None:
        by_cookie = credential is not None and credential.is_cookie
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
        by_cookie = credential is not None and credential.is_cookie
        own_page = connection.headers.get("sec-fetch-site") == "same-origin"
        self._origins.check(connection, required=by_cookie and not own_page)
        return await self._authenticate(connection, credential)

    async def authenticate(self, connection: HTTPConnection) -> Caller:
        """The caller of an HTTP request, by header, else by cookie.

        Raises:
            Problem: as `authenticate_socket`.
        """
        credential = self._find(connection, with_ticket=False)
        if credential is not None and credential.is_cookie:
            is_safe = connection.scope.get("method") in SAFE_METHODS
            if credential.kind == "session":
                self._origins.check(connection, required=not is_safe)
                _check_page(connection, is_safe)
            elif not is_safe:
                self._origins.check(connection, required=True)
        return await self._authenticate(connection, credential)

    async def _authenticate(
        self, connection: HTTPConnection, credential: _Credential | None
    ) -> Caller:
        if credential is None:
            raise Problem(Code.UNAUTHENTICATED)
        if credential.kind == "ticket":
            caller = await self._tickets.redeem(credential.value, origin_of(connection))
        elif credential.kind == "session":
            caller = await self._of_session(credential.value)
        else:
            caller = await self._verifier.verify(credential.value)
        await self._revocations.check(caller)
        return caller

    async def verify(self, token: str) -> Caller:
        """The caller that a token identifies.

        Raises:
            Problem: `unauthenticated` if the token is invalid or revoked; `service_unavailable`
                while the keys of the identity provider have never been fetched.
        """
        caller = await self._verifier.verify(token)
        await self._revocations.check(caller)
        return caller

    async def _of_session(self, cookie: str) -> Caller:
        """
        Raises:
            SessionEnded: there is no such session.
        """
        key = SessionKey.parse(cookie)
        caller = None if key is None else await self._sessions.load(key)
        if caller is None:
            raise SessionEnded
        return caller

    def _find(self, connection: HTTPConnection, *, with_ticket: bool) -> _Credential | None:
        has_query = bool(connection.scope.get("query_string"))
        if with_ticket and has_query and (ticket := connection.query_params.get("ticket")):
            return _Credential("ticket", ticket)
        if header := connection.headers.get("authorization"):
            return _Credential("header", _without_prefix(header))
        if self._session_cookie is not None and (value := self._session_cookie.read(connection)):
            return _Credential("session", value)
        if cookie := connection.cookies.get(self._cookie):
            check_single(connection, self._cookie)
            return _Credential("cookie", _without_prefix(unquote(cookie)))
        return None


def _check_page(connection: HTTPConnection, is_safe: bool) -> None:
    """A page of another origin can send a GET, a form or an image with a user's cookie, but no
    header of its own.

    A plain navigation of the browser has no such header either. It is recognised by what only the
    browser sets (Fetch Metadata), and reads at most.

    Raises:
        Problem: `forbidden`.
    """
    headers = connection.headers
    if headers.get(PAGE_HEADER) == "1":
        return
    if (
        is_safe
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    ):
        return
    raise Problem(Code.FORBIDDEN, "Send the header X-BFF: 1")


def _without_prefix(value: str) -> str:
    """The token from `Bearer x` or `x`, or from `Bearer :x` or `Bearer:x` as in `nuropb_gw`."""
    value = value.strip()
    prefix = _PREFIX.match(value)
    return value[prefix.end() :] if prefix else value
