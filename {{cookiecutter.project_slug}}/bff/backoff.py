"""Exponential backoff with jitter."""

from __future__ import annotations

import random
from collections.abc import Iterator


def backoff_delays(first: float, longest: float) -> Iterator[float]:
    """Yield the delay before each retry, in seconds, without end.

    The nth delay, from n = 0, is `min(first * 2**n, longest)`, multiplied by a random factor
    between 0.5 and 1. This jitter prevents many instances from retrying at the same moment.
    """
    delay = first
    while True:
        yield delay * random.uniform(0.5, 1)  # noqa: S311
        delay = min(delay * 2, longest)
