"""Sockets leave before the server shuts down."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from bff.realtime.drain import Draining

logger = logging.getLogger(__name__)


@contextmanager
def drain_before_shutdown(draining: Draining) -> Iterator[None]:
    """Drain at SIGTERM and Ctrl-C, then call the server's own signal handlers.

    The end of the lifespan would be too late: by then the server has closed the sockets. Servers
    install their handlers before the lifespan starts, so this works with any server that has some.
    A second Ctrl-C ends the draining at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    servers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    loop = asyncio.get_running_loop()
    task: asyncio.Task[None] | None = None

    def hear(number: int, _: FrameType | None) -> None:
        loop.call_soon_threadsafe(obey, signal.Signals(number))

    def obey(number: signal.Signals) -> None:
        nonlocal task
        if task is None:
            task = asyncio.create_task(draining.drain(), name="drain")
            task.add_done_callback(lambda drained: pass_on(number, drained))
        elif task.done():
            pass_on(number, task)
        elif number == signal.SIGINT:
            task.cancel()

    def pass_on(number: signal.Signals, drained: asyncio.Task[None]) -> None:
        if not drained.cancelled() and drained.exception() is not None:
            logger.error("draining failed", exc_info=drained.exception())
        handler = servers[number]
        if callable(handler):
            handler(number, None)

    for number, handler in servers.items():
        if callable(handler):
            signal.signal(number, hear)
    try:
        yield
    finally:
        for number, handler in servers.items():
            if signal.getsignal(number) is hear:
                signal.signal(number, handler)
        if task is not None:
            task.cancel()
