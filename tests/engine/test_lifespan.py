"""What the lifespan has opened and started is closed and stopped, also after an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from bff.application import Bff
from bff.cluster.stream_tracker import StreamTracker
from bff.cluster.streams import Page
from bff.connections.positions import Position
from bff.settings import Settings

from tests.engine.echo import create_app


class Billing: ...


async def test_connections_are_closed_although_a_resource_of_the_app_fails_to_close(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def billing(_: Bff) -> AsyncIterator[Billing]:
        yield Billing()
        raise RuntimeError("billing")

    app = create_app(settings, provide={Billing: billing})
    engine: Bff = app.state.bff
    closed = []
    for name, part, close in (
        ("keys", engine.verifier.tokens, "close"),
        ("pipeline", engine.cluster.pipeline, "close"),
        ("redis", engine.redis, "aclose"),
        ("database", engine.database, "close"),
    ):
        original: Any = getattr(part, close)

        async def recorded(name: str = name, original: Any = original) -> None:
            closed.append(name)
            await original()

        monkeypatch.setattr(part, close, recorded)
    with pytest.raises(RuntimeError, match="billing"):
        async with engine.lifespan(app):
            pass
    assert closed == ["keys", "pipeline", "redis", "database"]


async def test_background_tasks_end_when_the_start_fails(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(settings)
    engine: Bff = app.state.bff
    started: set[str] = set()

    async def failing() -> None:
        started.update(names())
        raise RuntimeError("start")

    def names() -> set[str]:
        return {task.get_name() for task in asyncio.all_tasks()} & {"index", "presence", "audit"}

    monkeypatch.setattr(engine.cluster.pubsub_listener, "wait_until_subscribed", failing)
    with pytest.raises(RuntimeError, match="start"):
        async with engine.lifespan(app):
            pass
    assert started == {"index", "presence", "audit"}
    assert names() == set()


async def test_a_stream_that_is_being_read_does_not_outlive_the_app(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(settings)
    cluster = app.state.bff.cluster
    reading = asyncio.Event()
    cancelled = asyncio.Event()

    async def hanging(*_: object) -> Page:
        reading.set()
        try:
            return await asyncio.Future()
        finally:
            cancelled.set()

    monkeypatch.setattr(cluster.stream_hub._reader, "read", hanging)
    async with app.state.bff.lifespan(app):
        tracker = StreamTracker("user", "alice")
        tracker.position = Position("epoch", 1)
        cluster.stream_hub.on_message(tracker, Position("epoch", 3), b"{}")
        await reading.wait()
    assert cancelled.is_set()
