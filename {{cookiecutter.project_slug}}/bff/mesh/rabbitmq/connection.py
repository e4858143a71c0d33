"""A supervised connection to RabbitMQ, which reconnects whenever it is lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from itertools import cycle
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import aio_pika
from aiormq import Channel
from aiormq.abc import AbstractConnection
from aiormq.exceptions import (
    AMQPError,
    ChannelNotFoundEntity,
    DeliveryError,
    InvalidFrameError,
    PublishError,
)
from pamqp.commands import Queue
from yarl import URL

from bff.backoff import backoff_delays
from bff.mesh.cancellation import is_cancelled, raise_if_cancelled
from bff.mesh.rabbitmq.fast_path import FastPath
from bff.mesh.transport import ConnectionLost
from bff.setting_types import each_host
from bff.settings import MeshSettings
from bff.tasks import cancel_and_wait

BROKER_SECONDS = 5
"""The time limit for each operation of the broker except publishing."""
HEARTBEAT_SECONDS = 5
"""Interval of heartbeats, unless `AMQP_URL` has another `heartbeat`. aiormq closes the connection
after 18 s without a frame: 3 * (HEARTBEAT_SECONDS + 1)."""
WATCH_SECONDS = 1
"""How often to check whether the broker blocks the connection."""
MAX_BACKOFF_SECONDS = 10

for _library in ("aiormq", "aio_pika"):
    # Both libraries write message bodies to the log, and a traceback for each lost connection.
    # `_set_status` writes one line instead.
    logging.getLogger(_library).setLevel(logging.CRITICAL + 1)

_NO_QUEUE = "bff.no-queue"
"""A routing key that no queue is bound with."""

logger = logging.getLogger(__name__)

_consumer_cancelled: WeakKeyDictionary[Channel, asyncio.Future[None]] = WeakKeyDictionary()
"""By channel, from its opening on: a queue can be deleted before anything awaits the future."""

Setup = Callable[[AbstractConnection, FastPath], AbstractAsyncContextManager[Channel]]


@contextmanager
def broker_errors() -> Iterator[None]:
    """Convert every error with which aiormq reports the end of a connection or channel.

    aiormq also cancels what waits on a dead connection. That CancelledError must not be taken for
    a cancellation of the current task. If the broker closes before its first frame, aiormq raises
    StopAsyncIteration.

    Raises:
        ConnectionLost: in place of aiormq's errors.
        DeliveryError: the broker refused one message; the channel is still open.
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
    """Open a channel, with or without publisher confirms."""
    async with asyncio.timeout(BROKER_SECONDS):
        channel = await connection.channel(publisher_confirms=confirms)
    assert isinstance(channel, Channel)  # noqa: S101
    cancelled: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def on_cancel(_: object) -> None:
        if not cancelled.done():
            cancelled.set_result(None)

    channel.on_consumer_cancel_callbacks.add(on_cancel)
    _consumer_cancelled[channel] = cancelled
    return channel


async def find_queue(connection: AbstractConnection, queue: str) -> Queue.DeclareOk | None:
    """How many messages and consumers a queue has; None if it does not exist. Asks on a channel of
    its own, because RabbitMQ closes the channel if there is no such queue."""
    channel = await open_channel(connection, confirms=False)
    try:
        async with asyncio.timeout(BROKER_SECONDS):
            return await channel.queue_declare(queue, passive=True)
    except ChannelNotFoundEntity:
        return None
    finally:
        await close(channel)


async def declare_exchanges(channel: Channel, settings: MeshSettings) -> None:
    """Declare the exchanges as NuroPb does, so that the BFF can start before any service.

    The default exchange, which has an empty name, always exists.
    """
    for name, kind in (
        (settings.rpc_exchange, "direct"),
        (settings.events_exchange, "topic"),
        (settings.dead_letter_exchange, "fanout"),
    ):
        if name:
            await channel.exchange_declare(name, exchange_type=kind, durable=True)


async def check_publishing(connection: AbstractConnection, settings: MeshSettings) -> None:
    """Check the permission to publish, without putting a message into a queue. The direct exchanges
    get a message with a routing key that no queue has. On the topic exchange any queue may match,
    so a binding that does not exist is removed instead: this needs the same permission.

    Raises:
        ChannelAccessRefused: with the broker's text, which names the exchange.
    """
    channel = await open_channel(connection, confirms=True)
    try:
        async with asyncio.timeout(BROKER_SECONDS):
            for exchange in (settings.rpc_exchange, ""):
                with suppress(PublishError):  # NO_ROUTE
                    await channel.basic_publish(
                        b"", exchange=exchange, routing_key=_NO_QUEUE, mandatory=True
                    )
            events = settings.events_exchange
            await channel.exchange_unbind(events, events, routing_key=_NO_QUEUE)
    finally:
        await close(channel)


async def stop_tasks(*tasks: asyncio.Task[Any], seconds: float | None = None) -> None:
    """Cancel tasks and give them `seconds` (5) for their clean-up. Then cancel them once more, and
    wait for one second."""
    seconds = BROKER_SECONDS if seconds is None else seconds
    await cancel_and_wait(*tasks, again_seconds=seconds, seconds=seconds + 1)
    for task in tasks:
        if not task.done():
            logger.critical("mesh task did not stop in time", extra={"task": repr(task)})
        elif not task.cancelled() and (error := task.exception()) is not None:
            logger.info("mesh task failed while it was stopped", extra={"error": repr(error)})


class _Closable(Protocol):
    def close(self) -> Awaitable[None]: ...


async def close(part: _Closable) -> None:
    """Close a channel or a connection, in whatever state it is. Errors are ignored."""
    with suppress(ConnectionLost), broker_errors():
        async with asyncio.timeout(BROKER_SECONDS):
            await part.close()
    raise_if_cancelled()  # aiormq can swallow it


def consumer_cancelled(channel: Channel) -> asyncio.Future[None]:
    """Done when the broker sends `basic.cancel`, because the queue was deleted."""
    return _consumer_cancelled[channel]


class SupervisedConnection:
    """Keeps one connection open and, from `setup`, one channel on it.

    When either is lost, it makes a new connection and a new channel, with exponential backoff, to
    the next of several hosts. The backoff begins again after a connection that lasted longer than
    the pause before it.
    """

    def __init__(self, url: str, purpose: str, setup: Setup, on_status: Callable[[], None]) -> None:
        self.reason = "not started"
        """Why messages cannot be sent now; empty when they can."""
        self._urls = cycle([with_heartbeat(URL(host_url)) for host_url in each_host(url)])
        self._purpose = purpose
        self._setup = setup
        self._on_status = on_status
        self._channel: Channel | None = None
        self._usable = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def channel(self) -> Channel:
        """The open channel. Waits for a connection, without a timeout."""
        while self._channel is None or not self._usable.is_set():
            await self._usable.wait()
        return self._channel

    def start(self) -> None:
        """Begin to connect."""
        self.reason = "connecting"
        self._task = asyncio.get_running_loop().create_task(self._supervise())
        self._task.add_done_callback(self._on_task_done)

    async def stop(self) -> None:
        """Close the connection."""
        if self._task is not None:
            await stop_tasks(self._task, seconds=3 * BROKER_SECONDS)

    async def _supervise(self) -> None:
        time = asyncio.get_running_loop().time
        delays, pause = backoff_delays(0.2, MAX_BACKOFF_SECONDS), 0.0
        while True:
            try:
                async with self._connected() as (connection, channel):
                    since = time()
                    await self._watch(connection, channel)
                    if time() - since > pause:
                        delays = backoff_delays(0.2, MAX_BACKOFF_SECONDS)
            except ConnectionLost as error:
                self._set_status(str(error), None)
            except Exception as error:
                logger.exception("RabbitMQ connection failed", extra={"purpose": self._purpose})
                self._set_status(f"{type(error).__name__}: {error}", None)
            pause = next(delays)
            await asyncio.sleep(pause)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[AbstractConnection, Channel]]:
        url, fast_path = next(self._urls), FastPath()
        client = aio_pika.Connection(url)
        client.kwargs["transport_factory"] = fast_path
        try:
            with broker_errors(), _refusals(url, fast_path):
                async with asyncio.timeout(BROKER_SECONDS):
                    await client.connect()
            assert client.transport is not None  # noqa: S101
            connection = client.transport.connection
            async with self._setup(connection, fast_path) as channel:
                yield connection, channel
        finally:
            try:
                await close(client)
            finally:
                fast_path.abort()  # aio_pika does not have it if it opened as the time was over

    async def _watch(self, connection: AbstractConnection, channel: Channel) -> None:
        """Keep the status up to date until the connection, the channel or its consumer ends."""
        ends = {connection.closing, channel.closing, consumer_cancelled(channel)}
        ended: set[asyncio.Future[None]] = set()
        raise_if_cancelled()
        try:
            while not ended:
                blocked = await _is_blocked(connection)
                self._set_status("RabbitMQ blocks publishing" if blocked else "", channel)
                ended, _ = await asyncio.wait(
                    ends, timeout=WATCH_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
        finally:
            self._set_status(f"lost: {_cause(ended.pop())}" if ended else "stopped", None)

    def _set_status(self, reason: str, channel: Channel | None) -> None:
        if self.reason == reason and self._channel is channel:
            return
        if self.reason != reason:
            self._log(reason)
        self.reason, self._channel = reason, channel
        if reason:
            self._usable.clear()
        else:
            self._usable.set()
        self._on_status()

    def _log(self, reason: str) -> None:
        if not reason:
            logger.info("RabbitMQ connected", extra={"purpose": self._purpose})
        elif reason == "stopped":
            logger.info("RabbitMQ disconnected", extra={"purpose": self._purpose})
        else:
            fields = {"purpose": self._purpose, "reason": reason}
            logger.warning("RabbitMQ unavailable", extra=fields)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            logger.critical(
                "task that reconnects to RabbitMQ has ended",
                exc_info=task.exception(),
                extra={"purpose": self._purpose},
            )


def with_heartbeat(url: URL) -> URL:
    return url if "heartbeat" in url.query else url.update_query(heartbeat=HEARTBEAT_SECONDS)


@contextmanager
def _refusals(url: URL, fast_path: FastPath) -> Iterator[None]:
    """Report the broker's reason where aiormq reports only an unexpected frame."""
    try:
        yield
    except InvalidFrameError as error:
        if "Connection.OpenOk" not in str(error):
            raise
        words = fast_path.close_reason
        if "limit" in words:
            raise ConnectionLost(f"the broker refuses the connection: {words}") from error
        raise ConnectionLost(
            f"the broker refuses the vhost {url.path[1:] or '/'!r}: create it, or give the user "
            f"access to it ({words})"
        ) from error


async def _is_blocked(connection: AbstractConnection) -> bool:
    """Whether the broker has sent `connection.blocked`: then aiormq's `ready` waits."""
    try:
        async with asyncio.timeout(0.1):
            await connection.ready()
    except TimeoutError:
        return True
    return False


def _cause(end: asyncio.Future[None]) -> str:
    error = None if end.cancelled() else end.exception()
    if isinstance(error, asyncio.CancelledError):
        # aiormq cancels its reader when the broker has missed three heartbeats.
        return "RabbitMQ missed three heartbeats"
    return f"{type(error).__name__} {error}".rstrip() if error else "closed by the broker"
