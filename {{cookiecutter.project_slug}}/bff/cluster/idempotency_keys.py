"""The idempotency keys of a messenger whose sends may be repeated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bff.cluster.keys import StreamKeys


class NoKeys:
    """The idempotency keys of sends that have none."""

    used: Sequence[str] = ()

    def next(self, stream: StreamKeys) -> tuple[str, int]:
        """The key of the next send, in the hash slot of the stream, and its life in seconds: 0 if
        the send has no key."""
        return stream.idempotency(""), 0


class NumberedKeys(NoKeys):
    """`<scope>/1`, `<scope>/2`, ... of each stream. Sends to different streams may be repeated in
    another order: those to a set of users, for example."""

    def __init__(self, scope: str, seconds: int) -> None:
        self._scope = scope
        self._seconds = seconds
        self._list: list[str] = []
        self.used = self._list
        self._counts: Counter[str] = Counter()
        """Sends by the tag of their stream."""

    def next(self, stream: StreamKeys) -> tuple[str, int]:
        self._counts[stream.tag] += 1
        key = stream.idempotency(f"{self._scope}/{self._counts[stream.tag]}")
        self._list.append(key)
        return key, self._seconds
