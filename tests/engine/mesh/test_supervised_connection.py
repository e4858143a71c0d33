"""Every error that ends a connection to RabbitMQ is converted to `ConnectionLost`; consumers start
again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from itertools import count, repeat
from types import SimpleNamespace
from typing import Any

import pamqp.commands
import pamqp.frame
import pytest
from aiormq import Channel
from aiormq.abc import AbstractConnection
from aiormq.exceptions import AMQPConnectionError, DeliveryError, InvalidFrameError
from bff.mesh.events import EventHandler, MeshEvent
from bff.mesh.rabbitmq import consumer, event_queue
from bff.mesh.rabbitmq.connection import (
    SupervisedConnection,
    _refusals,
    broker_errors,
    close,
    stop_tasks,
)
from bff.mesh.rabbitmq.fast_path import FastPath
from bff.mesh.transport import ConnectionLost
from bff.settings import Settings
from bff.testing import until
from yarl import URL


@pytest.fixture
def amqp_url() -> str:
    return "memory://"


ENDS = [
    AMQPConnectionError("reset"),
    StopAsyncIteration(),
    RuntimeError("Writer is closed"),
    ConnectionResetError(),
    TimeoutError(),
    asyncio.CancelledError(),
]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
async def test_each_error_of_a_connection_is_converted(end: BaseException) -> None:
    with pytest.raises(ConnectionLost), broker_errors():
        raise end


async def test_a_refused_message_does_not_end_the_connection() -> None:
    with pytest.raises(DeliveryError), broker_errors():
        raise DeliveryError(None, None)  # type: ignore[arg-type]


async def test_the_cancellation_of_a_task_is_kept() -> None:
    async def wait() -> None:
        with broker_errors():
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("ends", ["returns", "fails"])
async def test_the_cancellation_of_a_task_is_kept_by_a_close_that_swallows_it(ends: str) -> None:
    """As aiormq does. Otherwise a stop would wait 5 seconds, until it cancels again."""
    closing = asyncio.Event()

    class Part:
        async def close(self) -> None:
            closing.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if ends == "fails":
                    raise AMQPConnectionError from None

    task = asyncio.create_task(close(Part()))
    await closing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_task_that_loses_its_cancellation_is_cancelled_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cancelled: list[int] = []

    async def loses_one() -> None:
        while len(cancelled) < 2:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            cancelled.append(1)

    task = asyncio.create_task(loses_one())
    await asyncio.sleep(0)
    await stop_tasks(task, seconds=0.01)
    assert task.done()
    assert len(cancelled) == 2
    other = asyncio.create_task(asyncio.Event().wait())
    await stop_tasks(other)
    assert other.cancelled()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("query", "heartbeat"), [("", "5"), ("?heartbeat=30", "30"), ("?timeout=1", "5")]
)
async def test_the_heartbeat_of_the_url_is_kept(query: str, heartbeat: str) -> None:
    connection = SupervisedConnection(f"amqp://a,b:1/{query}", "x", None, lambda: None)  # type: ignore[arg-type]
    urls = [next(connection._urls) for _ in range(3)]
    assert [url.host for url in urls] == ["a", "b", "a"]
    assert {url.query["heartbeat"] for url in urls} == {heartbeat}


@pytest.mark.parametrize(
    ("vhost", "words", "told"),
    [
        ("nope", "NOT_ALLOWED - vhost nope not found", "the vhost 'nope': create it"),
        ("", "NOT_ALLOWED - access to vhost '/' refused", "the vhost '/': create it"),
        (
            "nope",
            "NOT_ALLOWED - access to vhost '/' refused for user 'guest': connection limit (0) is "
            "reached",
            "refuses the connection",
        ),
    ],
)
async def test_the_brokers_words_are_told(vhost: str, words: str, told: str) -> None:
    fast_path = FastPath()
    assert fast_path.close_reason == ""
    frame = pamqp.frame.marshal(pamqp.commands.Connection.Close(530, words, 10, 40), 0)
    assert fast_path.filter(frame) == frame
    with pytest.raises(ConnectionLost) as caught, _refusals(URL(f"amqp://a/{vhost}"), fast_path):
        raise InvalidFrameError("Expected one of ['Connection.OpenOk'], got <Close>")
    assert words in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize(("stable_seconds", "restarts"), [(-1, "fast"), (3600, "slower")])
async def test_a_consumer_that_ran_long_restarts_fast_again(
    monkeypatch: pytest.MonkeyPatch, stable_seconds: float, restarts: str
) -> None:
    pauses: list[float] = []
    ended = asyncio.Event()

    class EndsAtOnce(consumer.QueueConsumer):
        async def declare(self, channel: Channel) -> None:
            raise NotImplementedError

        async def consume(self, connection: AbstractConnection) -> None:
            if len(pauses) == 4:
                ended.set()
                await asyncio.Event().wait()
            raise ConnectionLost("the queue was deleted")

    def delays(first: float, longest: float) -> Iterator[float]:
        for number in count():
            pauses.append(min(first * 2**number, longest))
            yield 0

    monkeypatch.setattr(consumer, "backoff_delays", delays)
    monkeypatch.setattr(consumer, "STABLE_SECONDS", stable_seconds)
    connection: Any = None
    task = asyncio.create_task(EndsAtOnce("q").run(connection))
    async with asyncio.timeout(10):
        await ended.wait()
    task.cancel()
    assert pauses == ([0.5] * 4 if restarts == "fast" else [0.5, 1, 2, 4])


@pytest.mark.parametrize("was_ready", [True, False])
async def test_the_first_failure_is_told_by_a_consumer_that_never_consumed(was_ready: bool) -> None:
    """One that did consume restarts first: most interruptions end with that."""

    class Consumer(consumer.QueueConsumer):
        async def declare(self, channel: Channel) -> None: ...

        async def consume(self, connection: AbstractConnection) -> None: ...

    one = Consumer("q")
    one._on_change = lambda: None
    if was_ready:
        one.ready.set()
        one._report("")
    one._failed("gone")
    assert one.reason == ("" if was_ready else "gone")
    one._failed("gone again")
    assert one.reason == "gone again"


@pytest.mark.parametrize(("stable_seconds", "is_reported"), [(3600, True), (-1, False)])
async def test_a_consumer_that_starts_and_ends_again_and_again_is_reported(
    monkeypatch: pytest.MonkeyPatch, stable_seconds: float, is_reported: bool
) -> None:
    """Not one that consumes for a long time after each restart."""
    starts = 0

    class Flaps(consumer.QueueConsumer):
        async def declare(self, channel: Channel) -> None: ...

        async def consume(self, connection: AbstractConnection) -> None:
            nonlocal starts
            starts += 1
            closing = asyncio.get_running_loop().create_future()
            closing.set_exception(ConnectionLost("the channel was closed"))
            channel: Any = SimpleNamespace(closing=closing)
            acked: Any = None
            await self.wait_until_lost(channel, acked)

    monkeypatch.setattr(consumer, "STABLE_SECONDS", stable_seconds)
    monkeypatch.setattr(consumer, "backoff_delays", lambda *_: repeat(0))
    monkeypatch.setattr(
        consumer, "consumer_cancelled", lambda _: asyncio.get_running_loop().create_future()
    )
    reasons: list[str] = []
    flaps = Flaps("q")
    connection: Any = None
    task = asyncio.create_task(flaps.run(connection, lambda: reasons.append(flaps.reason)))
    await until(lambda: starts > 5)
    task.cancel()
    assert reasons[0] == ""
    assert ("the channel was closed" in reasons) is is_reported


async def test_a_consumer_that_fails_says_why_and_starts_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(consumer, "backoff_delays", lambda *_: iter([0.0] * 9))
    reasons: list[str] = []
    ended = asyncio.Event()

    class Fails(consumer.QueueConsumer):
        async def declare(self, channel: Channel) -> None: ...

        async def consume(self, connection: AbstractConnection) -> None:
            reasons.append(self.reason)
            if len(reasons) == 3:
                ended.set()
                await asyncio.Event().wait()
            raise ValueError("odd") if len(reasons) == 1 else ConnectionLost("gone")

    changes: list[str] = []
    connection: Any = None
    one = Fails("q")
    task = asyncio.create_task(one.run(connection, lambda: changes.append(one.reason)))
    async with asyncio.timeout(10):
        await ended.wait()
    task.cancel()
    assert reasons == ["starting", "ValueError: odd", "gone"]
    assert changes == reasons[1:]
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


async def test_a_handler_that_is_unavailable_is_asked_again_after_a_pause(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile its queue exists and receives events, but each question costs the broker work."""
    asked: list[str] = []
    nothing: Any = None

    async def handle(event: MeshEvent) -> None: ...

    def unavailable() -> str:
        asked.append("why")
        return "no Redis"

    async def declare(*_: object) -> None: ...

    monkeypatch.setattr(event_queue, "UNAVAILABLE_SECONDS", 3600)
    monkeypatch.setattr(event_queue.EventConsumer, "declare", declare)
    handler = EventHandler("first", "a", handle, unavailable)
    one = event_queue.EventConsumer(settings, handler, nothing)
    one._on_change = lambda: None
    task = asyncio.create_task(one._declare_and_wait(nothing))
    await until(lambda: one.reason == "no Redis")
    await asyncio.wait([task], timeout=0.02)
    task.cancel()
    assert one.ready.is_set()
    assert asked == ["why"]
