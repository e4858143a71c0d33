"""Validation of the registered claims of a token (RFC 7519, section 4.1)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from bff.settings import Settings

EXPIRED: Final = "expired"
_MAX_DATE: Final = 253_402_300_799
"""The last second of the year 9999: the latest date that Python can represent."""


def rejection_reason(claims: Mapping[str, Any], settings: Settings) -> str | None:
    """Why a token with these claims is invalid, or None. Contains no values of claims."""
    now, leeway = time.time(), settings.jwt_leeway_seconds
    expires_at = numeric_date(claims.get("exp"))
    if expires_at is None:
        return "exp is missing or not a time"
    if expires_at < now - leeway:
        return EXPIRED
    if "nbf" in claims:
        not_before = numeric_date(claims["nbf"])
        if not_before is None or not_before > now + leeway:
            return "not valid yet"
    if "events" in claims:
        return "an event about a user, not a token"
    issued_at = numeric_date(claims.get("iat", now))
    if issued_at is None:
        return "iat is not a time"
    if expires_at - issued_at > settings.max_token_seconds + leeway:
        return "lives longer than MAX_TOKEN_SECONDS"
    if settings.jwt_issuer is not None and claims.get("iss") != settings.jwt_issuer:
        return "wrong issuer"
    audience = settings.jwt_audience
    if audience is None:
        return "has an audience, but JWT_AUDIENCE is empty" if "aud" in claims else None
    return None if audience in audiences(claims) else "wrong audience"


def audiences(claims: Mapping[str, Any]) -> list[Any]:
    """The values of `aud`, which is one audience or a list of them (section 4.1.3)."""
    found = claims.get("aud")
    return found if isinstance(found, list) else [found]


def numeric_date(value: object) -> int | None:
    """A NumericDate (section 2) in whole seconds since 1970, or None if `value` is not one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value <= _MAX_DATE else None
