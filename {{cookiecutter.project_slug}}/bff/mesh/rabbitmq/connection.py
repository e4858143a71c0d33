"""One connection to RabbitMQ, made anew whenever it is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import aio_pika
from aiormq import Channel
from aiormq.abc import AbstractConnection
from aiormq.exceptions import AMQPError, DeliveryError, InvalidFrameError
from yarl import URL

from bff.backoff import backoff_delays
from bff.mesh.cancellation import ends_if_cancelled, is_cancelled
from bff.mesh.rabbitmq.fast_path import FastPath
from bff.mesh.transport import ConnectionLost
from bff.settings import MeshSettings

BROKER_SECONDS = 5
"""What the broker may take to answer anything but a publish."""
HEARTBEAT = 5
"""Seconds; a silent broker is given up after three times one more."""
WATCH_SECONDS = 1
"""How often a connection is asked whether the broker throttles it."""
LONGEST_PAUSE = 10

logging.getLogger("aiormq").setLevel(logging.CRITICAL + 1)
"""aiormq logs message bodies, and a traceback for every lost connection. We log one line."""

logger = logging.getLogger(__name__)

_consumer_gone: WeakKeyDictionary[Channel, asyncio.Future[None]] = WeakKeyDictionary()
"""Of each channel since it was opened: a queue may go before anybody waits for that."""

Setup = Callable[[AbstractConnection, FastPath], AbstractAsyncContextManager[Channel]]


@contextmanager
def broker_errors() -> Iterator[None]:
    """Make one error of all that aiormq raises when a connection or channel ends.

    aiormq ends the waits of a dead connection with CancelledError too: one that nobody asked of
    this task must not pass for its cancellation. A broker that hangs up before its first frame is
    a StopAsyncIteration.

    Raises:
        ConnectionLost: instead of aiormq's errors.
        DeliveryError: the broker refused one message; the channel lives.
    """
    try:
        yield
    except DeliveryError:
        raise
    except asyncio.CancelledError:
        if is_cancelled():
            raise
        raise ConnectionLost("the connection was closed") from None
    except (AMQPError, StopAsyncIteration, RuntimeError, OSError, TimeoutError) as error:
        if is_cancelled():
            raise asyncio.CancelledError from error
        raise ConnectionLost(f"{type(error).__name__}: {error}".rstrip(": ")) from error


async def open_channel(connection: AbstractConnection, *, confirms: bool) -> Channel:
    """A channel, within a few seconds."""
    async with asyncio.timeout(BROKER_SECONDS):
        channel = await connection.channel(publisher_confirms=confirms)
    assert isinstance(channel, Channel)  # noqa: S101
    gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def note(_: object) -> None:
        if not gone.done():
            gone.set_result(None)

    channel.on_consumer_cancel_callbacks.add(note)
    _consumer_gone[channel] = gone
    return channel


async def declare_exchanges(channel: Channel, settings: MeshSettings) -> None:
    """As NuroPb declares them, so that whoever comes first makes them. The default exchange, which
    has no name, is always there."""
    for name, kind in (
        (settings.rpc_exchange, "direct"),
        (settings.events_exchange, "topic"),
        (settings.dead_letter_exchange, "fanout"),
    ):
        if name:
            await channel.exchange_declare(name, exchange_type=kind, durable=True)


async def end(*tasks: asyncio.Task[Any], seconds: float = BROKER_SECONDS) -> None:
    """Cancel tasks until they have ended, or for some seconds.

    Once is not enough: what they wait for may swallow it, as Python 3.11's `wait_for` does when
    the answer comes in the same moment.
    """
    left = {task for task in tasks if not task.done()}
    deadline = asyncio.get_running_loop().time() + seconds
    while left and asyncio.get_running_loop().time() < deadline:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=1)
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()) is not None:
            logger.info("Mesh: ended with %s: %s", type(error).__name__, error)
    for task in left:
        logger.critical("Mesh: %s does not end", task)


class _Closable(Protocol):
    def close(self) -> Awaitable[None]: ...


async def close(part: _Closable) -> None:
    """Close a channel or connection, whatever state it is in."""
    with suppress(ConnectionLost), broker_errors():
        async with asyncio.timeout(BROKER_SECONDS):
            await part.close()


def consumer_cancelled(channel: Channel) -> asyncio.Future[None]:
    """Done when the broker ends a consumer of the channel, since the queue is gone."""
    return _consumer_gone[channel]


class SupervisedConnection:
    """Keeps one connection and, from `setup`, one channel that makes up its use.

    When either ends, both are made anew, after a pause that grows.
    """

    def __init__(self, url: str, use: str, setup: Setup, changed: Callable[[], None]) -> None:
        self.reason = "not started"
        """Why there is no connection, or none that takes messages; empty when there is."""
        self._url = URL(url).update_query(heartbeat=HEARTBEAT)
        self._use = use
        self._setup = setup
        self._changed = changed
        self._channel: Channel | None = None
        self._usable = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def channel(self) -> Channel:
        """The channel; waits, without a limit of its own, while there is none."""
        while self._channel is None or not self._usable.is_set():
            await self._usable.wait()
        return self._channel

    def start(self) -> None:
        """Begin to connect."""
        self.reason = "connecting"
        self._task = asyncio.get_running_loop().create_task(self._supervise())
        self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Close the connection."""
        if self._task is not None:
            await end(self._task, seconds=2 * BROKER_SECONDS)

    async def _supervise(self) -> None:
        waits = backoff_delays(0.2, LONGEST_PAUSE)
        while True:
            try:
                async with self._connected() as (connection, channel):
                    waits = backoff_delays(0.2, LONGEST_PAUSE)
                    await self._use_until_lost(connection, channel)
            except ConnectionLost as error:
                self._now(str(error), None)
            except Exception as error:
                logger.exception("Mesh, %s", self._use)
                self._now(f"{type(error).__name__}: {error}", None)
            await asyncio.sleep(next(waits))

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[AbstractConnection, Channel]]:
        client, lane = aio_pika.Connection(self._url), FastPath()
        client.kwargs["transport_factory"] = lane
        try:
            with broker_errors(), self._refusals():
                async with asyncio.timeout(BROKER_SECONDS):
                    await client.connect()
            assert client.transport is not None  # noqa: S101
            connection = client.transport.connection
            async with self._setup(connection, lane) as channel:
                yield connection, channel
        finally:
            await close(client)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Say in words what aiormq tells as a frame that it did not expect."""
        try:
            yield
        except InvalidFrameError as error:
            if "Connection.OpenOk" not in str(error):
                raise
            vhost = self._url.path[1:] or "/"
            raise ConnectionLost(
                f"the broker refuses the vhost {vhost!r}: it is not there, or not for this user"
            ) from error

    async def _use_until_lost(self, connection: AbstractConnection, channel: Channel) -> None:
        ends = {connection.closing, channel.closing, consumer_cancelled(channel)}
        ended: set[asyncio.Future[None]] = set()
        ends_if_cancelled()
        try:
            while not ended:
                blocked = await _is_blocked(connection)
                self._now("the broker takes no messages now" if blocked else "", channel)
                ended, _ = await asyncio.wait(
                    ends, timeout=WATCH_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
        finally:
            self._now(f"lost: {_why(ended.pop())}" if ended else "stopped", None)

    def _now(self, reason: str, channel: Channel | None) -> None:
        if self.reason == reason and self._channel is channel:
            return
        if self.reason != reason:
            level = logging.WARNING if reason not in ("", "stopped") else logging.INFO
            logger.log(level, "Mesh, %s: %s", self._use, reason or "connected")
        self.reason, self._channel = reason, channel
        if reason:
            self._usable.clear()
        else:
            self._usable.set()
        self._changed()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            logger.critical("Mesh, %s: given up", self._use, exc_info=task.exception())


async def _is_blocked(connection: AbstractConnection) -> bool:
    """Whether the broker has said `connection.blocked`; aiormq tells by not being ready."""
    try:
        async with asyncio.timeout(0.1):
            await connection.ready()
    except TimeoutError:
        return True
    return False


def _why(end: asyncio.Future[None]) -> str:
    error = None if end.cancelled() else end.exception()
    return f"{type(error).__name__} {error}".rstrip() if error else "closed by the broker"
