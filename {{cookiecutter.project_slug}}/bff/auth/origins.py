"""Whose pages may connect (RFC 6454): an exact list, against cross-site socket hijacking."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from bff.errors import Code, Problem

logger = logging.getLogger(__name__)

_MOST_LOGGED: Final = 200
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Origins:
    """The allowlist. A header either is one of its entries, letter by letter, or is refused."""

    def __init__(self, allowed: Iterable[str]) -> None:
        """
        Raises:
            ValueError: an entry is something that no browser would ever send.
        """
        self.allowed: Final = frozenset(_as_browsers_send_it(origin) for origin in allowed)

    def check(self, connection: HTTPConnection, *, required: bool) -> None:
        """Refuse a foreign origin, and with `required` also one that is not told.

        Raises:
            Problem: `forbidden`.
        """
        origins = [value for name, value in connection.scope["headers"] if name == b"origin"]
        if not origins and not required:
            return
        if len(origins) != 1 or origins[0].decode("latin-1") not in self.allowed:
            logger.info("refused: %r is not in ALLOWED_ORIGINS", b", ".join(origins)[:_MOST_LOGGED])
            raise Problem(Code.FORBIDDEN, "This origin may not connect")


def origin_of(connection: HTTPConnection) -> str | None:
    """The origin that the request names."""
    return connection.headers.get("origin")


def _as_browsers_send_it(origin: str) -> str:
    """An entry without the port that browsers leave out."""
    parts = urlsplit(origin.lower())
    if not origin.isascii():
        raise ValueError(f"ALLOWED_ORIGINS: write {origin!r} as browsers send it, with xn--")
    if parts.username is not None or not parts.hostname:
        raise ValueError(f"ALLOWED_ORIGINS: {origin!r} is no origin")
    if parts.port is not None and parts.port == _DEFAULT_PORTS.get(parts.scheme):
        return f"{parts.scheme}://{parts.netloc.rpartition(':')[0]}"
    return f"{parts.scheme}://{parts.netloc}"
