"""The allowlist of origins (RFC 6454), against cross-site WebSocket hijacking."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from bff.errors import Code, Problem

logger = logging.getLogger(__name__)

_MAX_LOGGED: Final = 200
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Origins:
    """The allowed origins. The `Origin` header must be equal to one of them."""

    def __init__(self, allowed: Iterable[str]) -> None:
        """
        Raises:
            ValueError: an entry is not an origin as browsers send it.
        """
        self.allowed: Final = frozenset(_normalized(origin) for origin in allowed)

    def check(self, connection: HTTPConnection, *, required: bool) -> None:
        """Check the `Origin` header of a request.

        Raises:
            Problem: `forbidden` if the origin is not allowed, or if it is missing and `required`.
        """
        origins = [value for name, value in connection.scope["headers"] if name == b"origin"]
        if not origins and not required:
            return
        if len(origins) != 1 or origins[0].decode("latin-1") not in self.allowed:
            logger.info(
                "origin refused: not in ALLOWED_ORIGINS",
                extra={"origin": repr(b", ".join(origins)[:_MAX_LOGGED])},
            )
            raise Problem(Code.FORBIDDEN, "This origin may not connect")


def origin_of(connection: HTTPConnection) -> str | None:
    """The `Origin` header, or None."""
    return connection.headers.get("origin")


def _normalized(origin: str) -> str:
    """An entry in lower case, without the default port, as browsers send it."""
    parts = urlsplit(origin.lower())
    if not origin.isascii():
        raise ValueError(f"ALLOWED_ORIGINS: write the host of {origin!r} in Punycode (xn--…)")
    if parts.username is not None or not parts.hostname:
        raise ValueError(
            f"ALLOWED_ORIGINS: {origin!r} is not an origin such as https://app.example.com"
        )
    if parts.port is not None and parts.port == _DEFAULT_PORTS.get(parts.scheme):
        return f"{parts.scheme}://{parts.netloc.rpartition(':')[0]}"
    return f"{parts.scheme}://{parts.netloc}"
