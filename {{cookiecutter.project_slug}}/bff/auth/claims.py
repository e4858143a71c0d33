"""What a token must claim to count here and now (RFC 7519, section 4.1)."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Final

from bff.settings import Settings

EXPIRED: Final = "it has expired"
_END_OF_TIME: Final = 253_402_300_799
"""The last second of the year 9999, beyond which there are no dates."""


def rejection_reason(claims: Mapping[str, Any], settings: Settings) -> str | None:
    """Why a token of these claims is not good; None when it is. Says nothing of its values."""
    now, leeway = time.time(), settings.jwt_leeway_seconds
    expires_at = numeric_date(claims.get("exp"))
    if expires_at is None:
        return "exp is missing or no time"
    if expires_at < now - leeway:
        return EXPIRED
    if "nbf" in claims:
        begins_at = numeric_date(claims["nbf"])
        if begins_at is None or begins_at > now + leeway:
            return "it is not valid yet"
    if "iat" in claims and numeric_date(claims["iat"]) is None:
        return "iat is no time"
    if settings.jwt_issuer is not None and claims.get("iss") != settings.jwt_issuer:
        return "another issuer"
    audience, claimed = settings.jwt_audience, claims.get("aud")
    if audience is None:
        return "it is for an audience" if "aud" in claims else None
    if audience not in (claimed if isinstance(claimed, list) else [claimed]):
        return "another audience"
    return None


def numeric_date(value: object) -> int | None:
    """A NumericDate (section 2) in whole seconds since 1970; None when it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if math.isfinite(value) and 0 <= value <= _END_OF_TIME else None
