"""Tells the cancellation of the current task from a `CancelledError` of something it awaited."""

from __future__ import annotations

import asyncio


def is_cancelled() -> bool:
    """Whether the current task has been cancelled."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def raise_if_cancelled() -> None:
    """Raise a cancellation of this task that other code has swallowed.

    Raises:
        CancelledError: the current task has been cancelled.
    """
    if is_cancelled():
        raise asyncio.CancelledError
