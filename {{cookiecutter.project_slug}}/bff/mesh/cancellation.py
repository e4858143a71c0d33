"""Whether a `CancelledError` is ours: a handler may pass on that of a task it waited for."""

from __future__ import annotations

import asyncio


def is_cancelled() -> bool:
    """Whether this task is to end."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def ends_if_cancelled() -> None:
    """Heed a cancellation that something before has swallowed, and no other.

    Raises:
        CancelledError: this task is to end.
    """
    if is_cancelled():
        raise asyncio.CancelledError
