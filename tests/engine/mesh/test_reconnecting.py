"""One connection after another: when the next one is made, and what is told of each."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import aio_pika
import pytest
from aiormq.exceptions import AMQPConnectionError
from bff.mesh.rabbitmq import connection
from bff.mesh.rabbitmq.connection import SupervisedConnection
from bff.testing import until


class Broker:
    """Stands for RabbitMQ and aiormq. Connections are made at once, or fail as `errors` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.errors: list[Exception] = []
        self.pauses = [0.0] * 99
        self.drawn: list[int] = []
        """Which pause of a backoff was taken, from 0."""
        self.closes_at_once = False
        self.unblocked = asyncio.Event()
        self.unblocked.set()
        self.channel: Any = None
        self.open = 0
        self.cancelled: asyncio.Future[None]
        monkeypatch.setattr(connection, "backoff_delays", self._delays)
        monkeypatch.setattr(aio_pika, "Connection", self._client)
        monkeypatch.setattr(connection, "consumer_cancelled", lambda _: self.cancelled)
        self.reasons: list[str] = []
        self.supervised = SupervisedConnection("amqp://a", "x", self._set_up, self._on_status)

    def _on_status(self) -> None:
        self.reasons.append(self.supervised.reason)

    def _delays(self, *bounds: float) -> Iterator[float]:
        self.bounds = bounds
        for number, pause in enumerate(self.pauses):
            self.drawn.append(number)
            yield pause

    def _client(self, _: object) -> Any:
        client = SimpleNamespace(kwargs={}, transport=None)

        async def connect() -> None:
            if self.errors:
                raise self.errors.pop(0)
            self.open += 1
            self.ends = asyncio.get_running_loop().create_future()
            made = SimpleNamespace(closing=self.ends, ready=self.unblocked.wait)
            client.transport = SimpleNamespace(connection=made)

        async def close() -> None:
            if client.transport is not None:
                client.transport = None
                self.open -= 1

        client.connect, client.close = connect, close
        return client

    @asynccontextmanager
    async def _set_up(self, *_: object) -> AsyncIterator[Any]:
        loop = asyncio.get_running_loop()
        self.cancelled = loop.create_future()
        self.channel = SimpleNamespace(closing=loop.create_future())
        if self.closes_at_once:
            self.channel.closing.set_result(None)
        yield self.channel


@pytest.fixture
async def broker(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Broker]:
    broker = Broker(monkeypatch)
    yield broker
    await broker.supervised.stop()
    assert broker.open == 0


async def test_pauses_grow_while_connections_end_at_once(broker: Broker) -> None:
    """A broker that closes each connection would get a new one five times per second."""
    broker.closes_at_once = True
    broker.pauses = [0.2, 3600]
    broker.supervised.start()
    await until(lambda: broker.drawn[-1:] == [1])


async def test_pauses_begin_again_after_a_connection_that_lasted(broker: Broker) -> None:
    broker.pauses = [0.01, 3600]
    broker.supervised.start()
    for number in range(1, 4):
        channel = await broker.supervised.channel()
        assert channel is broker.channel
        await asyncio.sleep(0.02)
        broker.channel.closing.set_result(None)
        await until(lambda: len(broker.drawn) == number)  # noqa: B023
        assert broker.open == 0
    assert broker.drawn == [0, 0, 0]
    assert broker.bounds == (0.2, 10)


async def test_each_failure_is_told_and_another_attempt_follows(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    broker.errors = [OSError("no route"), ValueError("odd"), OSError("no route")]
    assert broker.supervised.reason == "not started"
    broker.supervised.start()
    assert broker.supervised.reason == "connecting"
    async with asyncio.timeout(10):
        assert await broker.supervised.channel() is broker.channel
    told = ["OSError: no route", "ValueError: odd", "OSError: no route", ""]
    assert broker.reasons == told
    assert broker.drawn == [0, 1, 2]
    assert broker.bounds == (0.2, 10), "`docs/mesh.md`: after 0.1 to 10 s, with the jitter"
    await broker.supervised.stop()
    assert broker.reasons == [*told, "stopped"]
    logged = [(one.levelname, one.message) for one in caplog.records]
    unavailable = ("WARNING", "RabbitMQ unavailable")
    assert logged == [
        unavailable,
        ("ERROR", "RabbitMQ connection failed"),
        unavailable,
        unavailable,
        ("INFO", "RabbitMQ connected"),
        ("INFO", "RabbitMQ disconnected"),
    ]
    reasons = [vars(one).get("reason") for one in caplog.records if "unavailable" in one.message]
    assert reasons == told[:3]


@pytest.mark.parametrize(
    ("part", "error", "reason"),
    [
        ("connection", AMQPConnectionError("reset"), "lost: AMQPConnectionError reset"),
        ("connection", asyncio.CancelledError(), "lost: RabbitMQ missed three heartbeats"),
        ("connection", None, "lost: closed by the broker"),
        ("channel", AMQPConnectionError(), "lost: AMQPConnectionError"),
        ("channel", "cancel", "lost: closed by the broker"),
        ("consumer", None, "lost: closed by the broker"),
    ],
)
async def test_whatever_ends_leads_to_a_new_connection_and_the_reason_is_told(
    broker: Broker, part: str, error: Any, reason: str
) -> None:
    broker.supervised.start()
    first = await broker.supervised.channel()
    ends = {"connection": broker.ends, "channel": broker.channel.closing}
    end = ends.get(part, broker.cancelled)
    if error == "cancel":
        end.cancel()
    elif error is None:
        end.set_result(None)
    else:
        end.set_exception(error)
    await until(lambda: broker.reasons[-2:] == [reason, ""])
    assert await broker.supervised.channel() is not first
    assert broker.open == 1


async def test_a_connection_that_the_broker_blocks_is_not_used_until_it_no_longer_does(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "WATCH_SECONDS", 0.01)
    broker.unblocked.clear()
    broker.supervised.start()
    waiting = asyncio.create_task(broker.supervised.channel())
    await until(lambda: broker.supervised.reason == "RabbitMQ blocks publishing")
    assert not waiting.done()
    broker.unblocked.set()
    async with asyncio.timeout(10):
        assert await waiting is broker.channel
    broker.unblocked.clear()
    await until(lambda: broker.supervised.reason != "")
    waiting = asyncio.create_task(broker.supervised.channel())
    await asyncio.wait([waiting], timeout=0.02)
    assert not waiting.done()
    broker.unblocked.set()
    async with asyncio.timeout(10):
        assert await waiting is broker.channel
    assert broker.supervised.reason == ""
    blocked = "RabbitMQ blocks publishing"
    assert broker.reasons == [blocked, "", blocked, ""], "each change is told once"


async def test_a_bug_that_ends_reconnecting_is_told(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(broker.supervised, "_on_status", fail)
    broker.supervised.start()
    await until(lambda: any(one.levelname == "CRITICAL" for one in caplog.records))
    told = caplog.records[-1]
    assert told.message == "task that reconnects to RabbitMQ has ended"
    assert vars(told)["purpose"] == "x"
    assert "a bug" in caplog.text
