"""Drains connections before the server shuts down."""

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
    """On SIGTERM or SIGINT, drain first, then call the server's own signal handler.

    The end of the lifespan would be too late: by then the server has closed the connections. ASGI
    servers install their signal handlers before they start the lifespan, so this works with any
    server that has such handlers. A second SIGINT (Ctrl-C) cancels the drain.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    loop = asyncio.get_running_loop()
    task: asyncio.Task[None] | None = None

    def on_signal(number: int, _: FrameType | None) -> None:
        loop.call_soon_threadsafe(drain, signal.Signals(number))

    def drain(number: signal.Signals) -> None:
        nonlocal task
        if task is None:
            task = asyncio.create_task(draining.drain(), name="drain")
            task.add_done_callback(lambda drained: call_server_handler(number, drained))
        elif task.done():
            call_server_handler(number, task)
        elif number == signal.SIGINT:
            task.cancel()

    def call_server_handler(number: signal.Signals, drained: asyncio.Task[None]) -> None:
        if not drained.cancelled() and drained.exception() is not None:
            logger.error("drain failed", exc_info=drained.exception())
        handler = previous[number]
        if callable(handler):
            handler(number, None)

    for number, handler in previous.items():
        if callable(handler):
            signal.signal(number, on_signal)
    try:
        yield
    finally:
        for number, handler in previous.items():
            if signal.getsignal(number) is on_signal:
                signal.signal(number, handler)
        if task is not None:
            task.cancel()
