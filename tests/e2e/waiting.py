"""Waiting for something to become true, with a generous deadline."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

SECONDS = 20.0
"""The deadline of every wait that names none: a loaded machine of two cores keeps it."""
_POLL = 0.02


async def until(
    condition: Callable[[], bool | Awaitable[bool]],
    what: str,
    seconds: float = SECONDS,
    *,
    poll: float = _POLL,
) -> None:
    """Return as soon as the condition holds.

    Raises:
        AssertionError: it did not within `seconds`; it says what was waited for.
    """
    deadline = time.monotonic() + seconds
    while True:
        holds = condition()
        if await holds if inspect.isawaitable(holds) else holds:
            return
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
        await asyncio.sleep(poll)


def until_true(condition: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """The same outside a loop."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
        time.sleep(_POLL)
