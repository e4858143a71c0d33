"""How much one socket may ask for."""

from __future__ import annotations

import time


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
