"""Start and stop, in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any

from fastapi import FastAPI

from app.cluster.redis import UNAVAILABLE
from app.db import database, migrate
from app.realtime.drain import Draining
from app.settings import Settings

logger = logging.getLogger(__name__)

_FIRST_HEARING = 5.0
"""Seconds that the start waits for Redis; without it the BFF starts too, but is not ready."""

_LEAVING = 5.0
"""Seconds that the end waits for Redis; what is left there goes with the lease."""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """From the ground up, and back down. Servers that are away keep nothing from starting."""
    state = app.state
    if state.settings.environment != "production":
        await _migrate(state.settings)
    try:
        await state.index.renew()
    except UNAVAILABLE as error:
        logger.warning("no lease yet, Redis: %s: %s", type(error).__name__, error)
    await state.mesh.start()
    state.background = [
        _background("relay", state.relay.run()),
        _background("feeds", state.feeds.run()),
        _background("index", state.index.run()),
        _background("presence", state.presence.run()),
    ]
    try:
        async with asyncio.timeout(_FIRST_HEARING):
            await state.relay.listening()
    except TimeoutError:
        logger.warning("the relay does not hear yet: %s", state.relay.reason)

    try:
        with _draining_first(state.draining):
            yield
    finally:
        await state.mesh.stop()
        await state.dispatcher.stop()
        for task in state.background:
            task.cancel()
        await asyncio.gather(*state.background, return_exceptions=True)
        try:
            async with asyncio.timeout(_LEAVING):
                await state.index.leave()
        except UNAVAILABLE as error:
            logger.warning("left without a word, Redis: %s: %s", type(error).__name__, error)
        await state.verifier.close()
        await state.pipeline.close()
        await state.redis.aclose()
        await state.database.close()


@contextmanager
def _draining_first(draining: Draining) -> Iterator[None]:
    """Drain at SIGTERM and Ctrl-C before the server hears of them; a second Ctrl-C cuts it short.

    The lifespan's own end would be too late: by then the server has closed the sockets. So the
    server's signal handlers, which are there before the lifespan starts, are kept and called
    afterwards. It works with any server that has such handlers.
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


async def _migrate(settings: Settings) -> None:
    try:
        await migrate.upgrade(settings)
    except database.UNAVAILABLE as error:
        logger.warning("the schema is not brought up to date: %s", type(error).__name__)


def _background(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task that ends only with the app; should it die, `/health/live` says so."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_report)
    return task


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        logger.critical("background task %s died", task.get_name(), exc_info=task.exception())
