"""The checks of an ID token (OpenID Connect Core 1.0, section 3.1.3.7)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from bff.auth.claims import audiences, numeric_date

_CLOCK_SECONDS: Final = 120
"""How far the clock of the provider may be off. The nonce binds an ID token to its sign-in, so its
times protect against nothing that this would allow."""


def rejection_reason(
    claims: Mapping[str, Any], *, issuer: str, client_id: str, nonce: str
) -> str | None:
    """Why an ID token with these claims is invalid, or None. Contains no values of claims."""
    now = time.time()
    expires_at, issued_at = numeric_date(claims.get("exp")), numeric_date(claims.get("iat"))
    accepted = audiences(claims)
    party = claims.get("azp", None if len(accepted) > 1 else client_id)
    if claims.get("iss") != issuer:
        return "wrong issuer"
    if client_id not in accepted or party != client_id:
        return "issued to another client"
    if expires_at is None or expires_at < now - _CLOCK_SECONDS:
        return "expired, or without exp"
    if issued_at is None or issued_at > now + _CLOCK_SECONDS:
        return "issued in the future, or without iat"
    if claims.get("nonce") != nonce:
        return "wrong nonce"
    return None
