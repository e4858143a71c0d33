"""Limits on frames and requests per user, and on handshakes per address."""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict

from bff.errors import Code, Problem

_MAX_KEYS = 10_000
"""Buckets of users without a connection, or of addresses, that are remembered."""


class TokenBucket:
    """Allows `burst` at once, and `per_second` on average."""

    __slots__ = ("_burst", "_per_second", "_tokens", "_updated_at", "holders")

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = burst
        self._updated_at = time.monotonic()
        self.holders = 0
        """Connections that use this bucket (`TokenBuckets`)."""

    def take(self, count: int = 1) -> float:
        """Take tokens, at most `burst`. Returns 0, or the seconds until there are so many."""
        now = time.monotonic()
        refill = (now - self._updated_at) * self._per_second
        self._tokens = min(self._burst, self._tokens + refill)
        self._updated_at = now
        if self._tokens < count:
            return (count - self._tokens) / self._per_second
        self._tokens -= count
        return 0.0

    @property
    def is_full(self) -> bool:
        """Whether a new bucket would allow as much as this one."""
        idle = time.monotonic() - self._updated_at
        return self._tokens + idle * self._per_second >= self._burst


class TokenBuckets:
    """One token bucket per key, for example per user.

    A bucket that is full again is forgotten. Of those without a holder, at most `max_keys` are
    kept.
    """

    def __init__(self, per_second: float, burst: float, *, max_keys: int = _MAX_KEYS) -> None:
        self._per_second = per_second
        self._burst = burst
        self._max_keys = max_keys
        self._held: dict[str, TokenBucket] = {}
        self._others: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held) + len(self._others)

    def hold(self, key: str) -> TokenBucket:
        """Return the bucket of a key and keep it. Call `release` when it is not needed any more."""
        bucket = self._held.get(key)
        if bucket is None:
            bucket = self._others.pop(key, None) or self._new()
            self._held[key] = bucket
        bucket.holders += 1
        return bucket

    def release(self, key: str) -> None:
        """Undo one `hold`."""
        bucket = self._held[key]
        bucket.holders -= 1
        if not bucket.holders:
            del self._held[key]
            self._keep(key, bucket)

    def take(self, key: str, count: int = 1) -> float:
        """Take tokens of a key. Returns 0, or the seconds until there are so many."""
        bucket = self._held.get(key) or self._others.get(key)
        if bucket is None:
            bucket = self._new()
            self._keep(key, bucket)
        return bucket.take(count)

    def check(self, key: str) -> None:
        """Take one token of a key.

        Raises:
            Problem: `rate_limited`, with the time until the next token.
        """
        if seconds := self.take(key):
            raise Problem(Code.RATE_LIMITED, retry_after_seconds=seconds)

    def _new(self) -> TokenBucket:
        return TokenBucket(self._per_second, self._burst)

    def _keep(self, key: str, bucket: TokenBucket) -> None:
        """Add a bucket. First check the two oldest: a full one is dropped, another one becomes the
        newest while there is room."""
        others = self._others
        for _ in range(min(2, len(others))):
            oldest, candidate = others.popitem(last=False)
            if not candidate.is_full and len(others) + 1 < self._max_keys:
                others[oldest] = candidate
        others[key] = bucket


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
