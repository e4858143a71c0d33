"""How much one socket or one user may ask for."""

from __future__ import annotations

import time
from collections import defaultdict

from bff.errors import Code, Problem


class TokenBucket:
    """`burst` at once, then `per_minute`, evenly."""

    __slots__ = ("_at", "_burst", "_left", "_per_second")

    def __init__(self, per_minute: float, burst: float) -> None:
        self._per_second = per_minute / 60
        self._burst = burst
        self._left = burst
        self._at = time.monotonic()

    def take(self) -> bool:
        """Whether one more is allowed now."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class InFlight:
    """How many requests of each user run on this instance."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running: defaultdict[str, int] = defaultdict(int)

    def enter(self, user_id: str) -> None:
        """Count one in; every `enter` has its `leave`.

        Raises:
            Problem: `too_many_in_flight`.
        """
        if self._running[user_id] >= self._limit:
            raise Problem(Code.TOO_MANY_IN_FLIGHT)
        self._running[user_id] += 1

    def leave(self, user_id: str) -> None:
        """Count it out."""
        self._running[user_id] -= 1
        if not self._running[user_id]:
            del self._running[user_id]
