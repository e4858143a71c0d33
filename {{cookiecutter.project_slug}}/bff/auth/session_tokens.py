"""The tokens of a session: what the identity provider has issued for it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of a session. They never leave the BFF, except towards your own services."""

    access_token: str
    expires_at: float | None
    """When the access token expires, in seconds since 1970; None if the provider did not say."""
    refresh_token: str | None
    id_token: str
    refresh_at: float | None = None
    """When to refresh the access token: 30 s before its end, or after four fifths of a short
    life."""

    @classmethod
    def from_response(cls, response: Mapping[str, Any], before: Self | None = None) -> Self | None:
        """The tokens in an answer of the token endpoint (RFC 6749, section 5.1); None if it has no
        access token. What a refresh leaves out stays as it was `before`."""
        access_token = response.get("access_token")
        if not isinstance(access_token, str) or not access_token:
            return None
        seconds, now = _seconds(response.get("expires_in")), time.time()
        refresh_token, id_token = response.get("refresh_token"), response.get("id_token")
        return cls(
            access_token=access_token,
            expires_at=None if seconds is None else now + seconds,
            refresh_at=None if seconds is None else now + max(seconds - 30, seconds * 0.8),
            refresh_token=refresh_token or (before.refresh_token if before else None),
            id_token=id_token or (before.id_token if before else ""),
        )


def _seconds(lifetime: object) -> float | None:
    """Some providers send the number as a string."""
    if not isinstance(lifetime, int | float | str):
        return None
    try:
        return float(lifetime)
    except ValueError:
        return None
