"""Background tasks, each with an owner that holds it, sees its failure and ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from typing import Any

logger = logging.getLogger(__name__)

_CANCEL_AGAIN_SECONDS = 1.0


async def cancel_and_wait(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks and wait until they have ended.

    A task is cancelled again when it goes on: on Python 3.11 `asyncio.wait_for` can lose a
    cancellation, in any library.
    """
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=_CANCEL_AGAIN_SECONDS)


class TaskSet:
    """The short tasks of one owner. A task that fails is logged."""

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
        """Give the tasks some time to end, then cancel those that are left."""
        if self._tasks and wait_seconds:
            await asyncio.wait(tuple(self._tasks), timeout=wait_seconds)
        await cancel_and_wait(*self._tasks)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("background task failed", exc_info=error, extra={"task": self._name})


class ServiceTasks:
    """Tasks that run as long as the app does. One that ends earlier is a fault."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def alive(self) -> bool:
        """Whether every task still runs."""
        return not any(task.done() for task in self._tasks)

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine until `stop`."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(_report)
        self._tasks.append(task)
        return task

    async def stop(self) -> None:
        """Cancel every task and wait for its end."""
        await cancel_and_wait(*self._tasks)
        self._tasks.clear()


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        logger.critical(
            "background task died", exc_info=task.exception(), extra={"task": task.get_name()}
        )
