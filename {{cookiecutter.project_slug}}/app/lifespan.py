"""Start and stop, in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from app.cluster.redis import UNAVAILABLE
from app.db import database, migrate
from app.settings import Settings

logger = logging.getLogger(__name__)

_FIRST_HEARING = 5.0
"""Seconds that the start waits for Redis; without it the BFF starts too, but is not ready."""


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
        _background("index", state.index.run()),
    ]
    try:
        async with asyncio.timeout(_FIRST_HEARING):
            await state.relay.listening()
    except TimeoutError:
        logger.warning("the relay does not hear yet: %s", state.relay.reason)

    try:
        yield
    finally:
        await state.draining.drain()
        await state.mesh.stop()
        for task in state.background:
            task.cancel()
        await asyncio.gather(*state.background, return_exceptions=True)
        try:
            await state.index.leave()
        except UNAVAILABLE as error:
            logger.warning("left without a word, Redis: %s: %s", type(error).__name__, error)
        await state.verifier.close()
        await state.redis.aclose()
        await state.database.close()


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
