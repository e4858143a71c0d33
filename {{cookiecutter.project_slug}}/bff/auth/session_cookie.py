"""The cookie of a session."""

from __future__ import annotations

from typing import Final

from starlette.requests import HTTPConnection
from starlette.responses import Response

from bff.auth.session_key import SessionKey
from bff.errors import Code, Problem
from bff.settings import Settings

NAME: Final = "__Host-bff"
"""Browsers accept a cookie with this prefix only over https, from this host alone, for all paths
(RFC 6265bis, section 4.1.3.2). So a page of a sibling domain cannot set it."""
_PLAIN_NAME: Final = "bff"
"""Over http, in development."""


class SessionCookie:
    """Reads, sets and deletes the cookie of a session."""

    def __init__(self, settings: Settings) -> None:
        self._always_secure = settings.environment == "production"

    def is_secure(self, connection: HTTPConnection) -> bool:
        """Whether cookies of this connection are sent over TLS only."""
        return self._always_secure or connection.url.scheme in ("https", "wss")

    def read(self, connection: HTTPConnection) -> str | None:
        """The value of the cookie.

        Raises:
            Problem: `unauthenticated` if there are two.
        """
        cookies = connection.cookies
        name = NAME if self.is_secure(connection) else _PLAIN_NAME
        if name not in cookies:
            return None
        check_single(connection, name)
        return cookies[name]

    def set(self, connection: HTTPConnection, response: Response, key: SessionKey) -> None:
        """Give the browser the key of a session, for as long as the browser runs."""
        secure = self.is_secure(connection)
        response.set_cookie(
            NAME if secure else _PLAIN_NAME,
            key.cookie,
            path="/",
            secure=secure,
            httponly=True,
            samesite="strict",
        )

    def delete(self, connection: HTTPConnection, response: Response) -> None:
        """Delete the cookie."""
        secure = self.is_secure(connection)
        response.delete_cookie(
            NAME if secure else _PLAIN_NAME,
            path="/",
            secure=secure,
            httponly=True,
            samesite="strict",
        )


def check_single(connection: HTTPConnection, name: str) -> None:
    """A page of a sibling host can set a second cookie of the name for the whole domain. Which of
    the two counts must not depend on their order (RFC 6265, section 4.2.2).

    Raises:
        Problem: `unauthenticated` if there are two.
    """
    cookies = ";".join(connection.headers.getlist("cookie")).split(";")
    if sum(cookie.partition("=")[0].strip() == name for cookie in cookies) > 1:
        raise Problem(Code.UNAUTHENTICATED, f"There are two cookies {name}: delete one of them")
