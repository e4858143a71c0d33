"""What is revoked: sessions, tokens, and all sign-ins of a user up to a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from bff.auth.caller import Caller
from bff.errors import Code, Problem

ENDED: Final = "The session has ended; sign in again."
"""The reason that clients get, over HTTP and with close code 4505."""


class SessionEnded(Problem):
    """The caller's session, token or user was revoked after it was issued."""

    def __init__(self) -> None:
        super().__init__(Code.UNAUTHENTICATED, ENDED)


class RevocationKind(StrEnum):
    """What a revocation names."""

    SESSION = "s"
    """Every token with this `sid`, and the session of the cookie with this id."""
    TOKEN = "t"  # noqa: S105
    """The token with this `jti`."""
    USER = "u"
    """Every token of this user that was issued at the time of the revocation or before."""


class Revocation(NamedTuple):
    """One entry of the list."""

    kind: RevocationKind
    name: str
    """A session id, a token id or a user id."""
    at: float
    """When it was revoked, in seconds since 1970. For a user: sign-ins until then."""

    @property
    def key(self) -> str:
        """Its name in Redis."""
        return f"{self.kind}:{self.name}"

    @classmethod
    def of(cls, key: str, at: float) -> Revocation:
        """Parse a name in Redis.

        Raises:
            ValueError: a kind of a newer version.
        """
        kind, _, name = key.partition(":")
        return cls(RevocationKind(kind), name, at)


class RevocationCheck(Protocol):
    """Checks the caller of a request: `bff.cluster.revocations.Revocations`."""

    async def check(self, caller: Caller) -> None:
        """
        Raises:
            SessionEnded: the caller's session, token or user is revoked.
        """


class Sessions(Protocol):
    """The store of the sessions that cookies name: `bff.auth.sessions.SessionStore`."""

    async def end_session(self, sid: str) -> None:
        """End a session. Idempotent."""

    async def end_provider_session(self, provider_sid: str) -> Sequence[str]:
        """End the sessions that began with this `sid` of the identity provider; their own ids."""

    async def end_user(self, user_id: str, before: float) -> Sequence[str]:
        """End the user's sessions that began at this time or before, in seconds since 1970."""


class RevocationList:
    """The revocations that this instance knows, in memory."""

    def __init__(self) -> None:
        self._sessions: dict[str, float] = {}
        self._tokens: dict[str, float] = {}
        self._users: dict[str, float] = {}
        self._by_kind = {
            RevocationKind.SESSION: self._sessions,
            RevocationKind.TOKEN: self._tokens,
            RevocationKind.USER: self._users,
        }

    def __len__(self) -> int:
        return sum(map(len, self._by_kind.values()))

    def is_revoked(self, caller: Caller) -> bool:
        """Whether the caller's session, token or user is revoked."""
        if self._users.get(caller.user_id, -1.0) >= caller.issued_at:
            return True
        return (caller.session_id != "" and caller.session_id in self._sessions) or (
            caller.token_id != "" and caller.token_id in self._tokens
        )

    def add(self, revocations: Iterable[Revocation]) -> list[Revocation]:
        """Add revocations; returns those that were not known, or only with an earlier time."""
        added = []
        for revocation in revocations:
            times = self._by_kind[revocation.kind]
            if times.get(revocation.name, -1.0) < revocation.at:
                times[revocation.name] = revocation.at
                added.append(revocation)
        return added

    def since(self, time: float) -> list[Revocation]:
        """The revocations from this time on."""
        return [
            Revocation(kind, name, at)
            for kind, times in self._by_kind.items()
            for name, at in times.items()
            if at >= time
        ]

    def count_since(self, time: float) -> int:
        """How many revocations `since` returns."""
        return sum(at >= time for times in self._by_kind.values() for at in times.values())

    def remove_before(self, time: float) -> None:
        """Remove older revocations: the tokens that they cover have expired."""
        for times in self._by_kind.values():
            for name in [name for name, at in times.items() if at < time]:
                del times[name]


def keys_of(caller: Caller) -> list[str]:
    """The names in Redis of what can revoke a caller."""
    named = {
        RevocationKind.USER: caller.user_id,
        RevocationKind.SESSION: caller.session_id,
        RevocationKind.TOKEN: caller.token_id,
    }
    return [f"{kind}:{name}" for kind, name in named.items() if name]


def parse(found: Mapping[str, float]) -> list[Revocation]:
    """The revocations by their names in Redis, without those of kinds that a newer version has."""
    known = tuple(f"{kind}:" for kind in RevocationKind)
    return [Revocation.of(key, at) for key, at in found.items() if key.startswith(known)]
