"""Limits on frames per connection and on requests per user."""

from __future__ import annotations

import time
from collections import defaultdict

from bff.errors import Code, Problem


class TokenBucket:
    """Allows `burst` frames at once, and `per_minute` on average."""

    __slots__ = ("_burst", "_per_second", "_tokens", "_updated_at")

    def __init__(self, per_minute: float, burst: float) -> None:
        self._per_second = per_minute / 60
        self._burst = burst
        self._tokens = burst
        self._updated_at = time.monotonic()

    def take(self) -> bool:
        """Take one token; False when the bucket is empty."""
        now = time.monotonic()
        refill = (now - self._updated_at) * self._per_second
        self._tokens = min(self._burst, self._tokens + refill)
        self._updated_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class InFlight:
    """Counts the requests of each user that run on this instance."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running: defaultdict[str, int] = defaultdict(int)

    def enter(self, user_id: str) -> None:
        """Count a request that starts. Call `leave` when it ends.

        Raises:
            Problem: `too_many_in_flight`.
        """
        if self._running[user_id] >= self._limit:
            raise Problem(Code.TOO_MANY_IN_FLIGHT)
        self._running[user_id] += 1

    def leave(self, user_id: str) -> None:
        """Count a request that has ended."""
        self._running[user_id] -= 1
        if not self._running[user_id]:
            del self._running[user_id]
