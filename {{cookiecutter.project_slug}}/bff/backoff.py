"""How long to wait before the next attempt."""

from __future__ import annotations

import random
from collections.abc import Iterator


def backoff_delays(first: float, longest: float) -> Iterator[float]:
    """Seconds to wait, for ever: doubled each time, with jitter so that a crowd spreads out."""
    pause = first
    while True:
        yield pause * random.uniform(0.5, 1)  # noqa: S311
        pause = min(pause * 2, longest)
