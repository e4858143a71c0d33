"""Background tasks with an owner, which logs their exceptions and cancels them."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Coroutine, Iterator
from typing import Any

logger = logging.getLogger(__name__)

_CANCEL_AGAIN_SECONDS = 1.0
_STOP_SECONDS = 5.0


async def cancel_and_wait(
    *tasks: asyncio.Task[Any], again_seconds: float | None = None, seconds: float = math.inf
) -> list[asyncio.Task[Any]]:
    """Cancel tasks and wait until they are done, at most `seconds`. Returns those that still run.

    A task that is still running after `again_seconds` (1) is cancelled again: on Python 3.11,
    `asyncio.wait_for` in any library can lose a cancellation. This also interrupts its clean-up.

    Also for the clean-up of a task that was cancelled itself. `asyncio.timeout` is not: before
    Python 3.11.3 it ends there with `CancelledError` (gh-102780).
    """
    time = asyncio.get_running_loop().time
    ends = time() + seconds
    again = again_seconds or _CANCEL_AGAIN_SECONDS
    while (running := [task for task in tasks if not task.done()]) and time() < ends:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=min(again, ends - time()))
    return running


class TaskSet:
    """The short-lived tasks of one owner. The exception of a failed task is logged."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[asyncio.Task[None]]:
        return iter(tuple(self._tasks))

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in the background."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def stop(self, *, wait_seconds: float = 0) -> None:
        """Wait up to `wait_seconds` for the tasks to finish, then cancel the others, and wait up to
        5 seconds for their end."""
        if self._tasks and wait_seconds:
            await asyncio.wait(tuple(self._tasks), timeout=wait_seconds)
        if await cancel_and_wait(*self._tasks, seconds=_STOP_SECONDS):
            logger.critical("background task did not stop in time", extra={"task": self._name})

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("background task failed", exc_info=error, extra={"task": self._name})


class ServiceTasks:
    """Tasks that run until the app stops. Finishing earlier is an error."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def alive(self) -> bool:
        """Whether every task is still running."""
        return not any(task.done() for task in self._tasks)

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine until `stop`."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(_report)
        self._tasks.append(task)
        return task

    async def stop(self) -> None:
        """Cancel every task, and wait up to 5 seconds for their end."""
        for task in await cancel_and_wait(*self._tasks, seconds=_STOP_SECONDS):
            logger.critical("background task did not stop in time", extra={"task": task.get_name()})
        self._tasks.clear()


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        logger.critical(
            "background task died", exc_info=task.exception(), extra={"task": task.get_name()}
        )
