"""Whoever is at the other end, as their token says."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from bff.auth.claims import numeric_date
from bff.errors import Code, Problem

MAX_ID = 128
"""Characters a user id may have: it becomes a part of Redis keys."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A user with the scopes they were granted."""

    user_id: str
    username: str
    scopes: frozenset[str]
    session_id: str
    """The sign-in that the token belongs to (claim `sid`), or empty."""
    expires_at: int
    """Seconds since 1970: when the token expires."""
    token: str = field(repr=False)

    @classmethod
    def from_claims(cls, claims: Mapping[str, Any], token: str) -> Self:
        """The caller that verified claims describe.

        Raises:
            Problem: `unauthenticated` when `sub` is no usable id or `exp` no time.
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
        """Go on only with all of these scopes.

        Raises:
            Problem: `forbidden`, naming what is missing.
        """
        missing = sorted(set(scopes) - self.scopes)
        if missing:
            raise Problem(Code.FORBIDDEN, f"Needs scope {' and '.join(missing)}")


def _text(value: object) -> str | None:
    """A claim that is short and safe to put into keys, logs and JSON; else None."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID:
        return None
    if value.isprintable():
        return value
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in value):
        return None
    return value


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """`scope` as RFC 8693 has it; `scopes` and `scp` are what some providers write instead."""
    for claim in ("scope", "scopes", "scp"):
        match claims.get(claim):
            case str() as joined:
                return frozenset(joined.split())
            case list() as listed:
                return frozenset(scope for scope in listed if isinstance(scope, str))
    return frozenset()
