"""The checks of a logout token (OpenID Connect Back-Channel Logout 1.0, section 2.6)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from bff.auth.claims import audiences, numeric_date
from bff.names import is_user_id

EVENT: Final = "http://schemas.openid.net/event/backchannel-logout"
MAX_AGE_SECONDS: Final = 300
"""The longest time between the issue of a logout token and its arrival. The specification advises
providers to limit it to two minutes."""


class LogoutRefused(Exception):
    """The logout token is not valid. The text contains no values of claims."""


@dataclass(frozen=True, slots=True)
class Logout:
    """What a valid logout token asks for. Without a session: to end all sessions of the user."""

    token_id: str
    user_id: str | None
    session_id: str | None
    """The `sid` of the identity provider."""
    issued_at: int

    @classmethod
    def from_claims(
        cls, claims: Mapping[str, Any], *, issuer: str, audience: str, leeway: float
    ) -> Self:
        """The logout that the claims of a signed token describe.

        `leeway` is how far clocks may differ, in seconds.

        Raises:
            LogoutRefused: the claims are not those of a valid logout token.
        """
        events = claims.get("events")
        if claims.get("iss") != issuer:
            raise LogoutRefused("wrong issuer")
        if audience not in audiences(claims):
            raise LogoutRefused("wrong audience")
        if not isinstance(events, dict) or not isinstance(events.get(EVENT), dict):
            raise LogoutRefused("not the event of a logout")
        if "nonce" in claims:
            raise LogoutRefused("has a nonce, as ID tokens have")
        issued_at = _checked_time(claims, leeway)
        token_id, user_id, session_id = (_text(claims, name) for name in ("jti", "sub", "sid"))
        if token_id is None:
            raise LogoutRefused("jti is missing")
        if user_id is None and session_id is None:
            raise LogoutRefused("neither sub nor sid")
        return cls(token_id, user_id, session_id, issued_at)


def _checked_time(claims: Mapping[str, Any], leeway: float) -> int:
    """When the token was issued. Some providers leave `exp` out, although the specification
    requires it; `iat` limits the age in any case."""
    now = time.time()
    issued_at = numeric_date(claims.get("iat"))
    if issued_at is None:
        raise LogoutRefused("iat is missing or not a time")
    if issued_at > now + leeway:
        raise LogoutRefused("issued in the future")
    if issued_at < now - MAX_AGE_SECONDS - leeway:
        raise LogoutRefused("too old")
    if "exp" in claims:
        expires_at = numeric_date(claims["exp"])
        if expires_at is None or expires_at < now - leeway:
            raise LogoutRefused("expired")
    return issued_at


def _text(claims: Mapping[str, Any], name: str) -> str | None:
    """
    Raises:
        LogoutRefused: the claim cannot be an id.
    """
    value = claims.get(name)
    if value is not None and not is_user_id(value):
        raise LogoutRefused(f"{name} is not an id")
    return value
