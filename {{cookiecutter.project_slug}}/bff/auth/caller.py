"""The authenticated user of a request or a connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from bff.auth.claims import numeric_date
from bff.auth.session_key import SessionKey
from bff.errors import Code, Problem
from bff.names import is_text, is_user_id


@dataclass(frozen=True, slots=True)
class Caller:
    """A user and their scopes, from a verified token or a session."""

    user_id: str
    username: str
    scopes: frozenset[str]
    session_id: str
    """The sign-in: the id of the session, or the claim `sid` of the token, or an empty string."""
    expires_at: int
    """When the token expires or the session ends, in seconds since 1970."""
    token_id: str = ""
    """The claim `jti` of the token, or an empty string."""
    issued_at: float = 0
    """When the token was issued (claim `iat`) or the session began, in seconds since 1970; 0 if
    the token does not say."""
    session: SessionKey | None = field(default=None, repr=False, compare=False)
    """The key of the session, if the caller has one instead of a token."""

    @classmethod
    def from_claims(cls, claims: Mapping[str, Any]) -> Self:
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
            token_id=_text(claims.get("jti")) or "",
            issued_at=numeric_date(claims.get("iat")) or 0,
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
    return value if isinstance(value, str) and is_user_id(value) else None


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """From `scope` (RFC 8693, section 4.2), or from `scopes` or `scp` of some providers."""
    for claim in ("scope", "scopes", "scp"):
        if (scopes := scopes_in(claims.get(claim))) is not None:
            return scopes
    return frozenset()


def scopes_in(value: object) -> frozenset[str] | None:
    """The scopes in a claim, which is a text with spaces or a list; None if it is neither."""
    match value:
        case str() as joined:
            return frozenset(scope for scope in joined.split() if is_text(scope))
        case list() as listed:
            return frozenset(scope for scope in listed if _is_scope(scope))
    return None


def _is_scope(value: object) -> bool:
    """Whether it is one scope. With a space in it, services that get the scopes as one text would
    read several."""
    return isinstance(value, str) and is_text(value) and value.split() == [value]
