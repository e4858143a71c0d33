"""The authenticated user of a request or a connection."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from bff.auth.claims import numeric_date
from bff.errors import Code, Problem

MAX_ID = 128
"""The maximum length of a user id, which becomes part of Redis keys."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A user and their scopes, from a verified token."""

    user_id: str
    username: str
    scopes: frozenset[str]
    session_id: str
    """The sign-in that the token belongs to (claim `sid`), or an empty string."""
    expires_at: int
    """When the token expires, in seconds since 1970."""
    token: str = field(repr=False)

    @classmethod
    def from_claims(cls, claims: Mapping[str, Any], token: str) -> Self:
        """The caller that the claims of a verified token describe.

        Raises:
            Problem: `unauthenticated` if `sub` is not a usable id or `exp` is not a time.
        """
        user_id = _text(claims.get("sub"))
        expires_at = numeric_date(claims.get("exp"))
        if user_id is None or expires_at is None:
            raise Problem(Code.UNAUTHENTICATED)
        names = (_text(claims.get(claim)) for claim in ("preferred_username", "username", "name"))
        return cls(
            user_id=user_id,
            username=next((name for name in names if name), user_id),
            scopes=_scopes(claims),
            session_id=_text(claims.get("sid")) or "",
            expires_at=expires_at,
            token=token,
        )

    def require(self, *scopes: str) -> None:
        """Check that the caller has all of these scopes.

        Raises:
            Problem: `forbidden`, which names the missing scopes.
        """
        missing = sorted(set(scopes) - self.scopes)
        if missing:
            raise Problem(Code.FORBIDDEN, f"Needs scope {' and '.join(missing)}")


def _text(value: object) -> str | None:
    """A claim that is short and safe to use in keys, logs and JSON, else None."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID:
        return None
    if value.isprintable():
        return value
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        return None
    return value


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """From `scope` (RFC 8693, section 4.2), or from `scopes` or `scp` of some providers."""
    for claim in ("scope", "scopes", "scp"):
        match claims.get(claim):
            case str() as joined:
                return frozenset(joined.split())
            case list() as listed:
                return frozenset(scope for scope in listed if isinstance(scope, str))
    return frozenset()
