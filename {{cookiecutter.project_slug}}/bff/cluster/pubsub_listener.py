"""Receives from Redis what other instances send, and passes it to the connections here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final

from bff.backoff import backoff_delays
from bff.cluster.context import ClusterContext
from bff.cluster.control_log import ControlLog
from bff.cluster.envelopes import Kind, envelope
from bff.cluster.pubsub_channels import PubSubChannels
from bff.cluster.revocations import Revocations
from bff.cluster.stream_hub import StreamHub
from bff.cluster.stream_registry import StreamRegistry
from bff.cluster.stream_tracker import StreamTracker
from bff.cluster.subscriptions import Subscriptions
from bff.connections.connection import Connection
from bff.connections.frames import Frame
from bff.connections.positions import Position
from bff.redis.client import UNAVAILABLE, create_pubsub, publish_probe, why
from bff.tasks import cancel_and_wait

logger = logging.getLogger(__name__)

_PROBE: Final = envelope(Kind.PROBE).encode()
_MAX_MISSED_PROBES: Final = 3
_RETRY_SECONDS: Final = (0.1, 5.0)
"""First and longest delay before it connects again."""
_MIN_READ_SECONDS: Final = 0.05
"""Shortest read. Messages that arrived while this process was blocked are read before silence is
declared."""
_FRAMES_PER_TURN: Final = 10_000
"""After this many frames (about 5 ms) other tasks run. Messages may arrive without a pause, and all
frames that a socket gets within one turn are sent in one write."""


class PubSubListener:
    """The one pub/sub connection of an instance, with a health check.

    A subscriber can stop receiving without any error: a half-open TCP connection, an output buffer
    limit. Therefore the listener publishes a probe to its own channel at regular intervals. When
    nothing is received for three intervals, it reconnects.
    """

    def __init__(
        self,
        context: ClusterContext,
        streams: StreamRegistry,
        channels: PubSubChannels,
        hub: StreamHub,
        subscriptions: Subscriptions,
        control_log: ControlLog,
        revocations: Revocations,
    ) -> None:
        self._redis = context.redis
        self._own_channel = context.own_channel
        self._registry = context.registry
        self._metrics = context.metrics
        self._resync_needed = context.resync_needed
        self._users_to_compare = context.users_to_compare
        self._probe_seconds = context.settings.pubsub_probe_seconds
        self._stalled_after = self._probe_seconds * _MAX_MISSED_PROBES
        self._streams = streams
        self._channels = channels
        self._hub = hub
        self._subscriptions = subscriptions
        self._control_log = control_log
        self._revocations = revocations
        self._error = "not subscribed yet"
        self._received_at = 0.0
        self._subscribed = asyncio.Event()
        self._written = 0
        """Frames written to sockets since other tasks had their turn."""
        self._probe_error = ""
        """Why the last probe could not be published; empty when it was."""

    @property
    def error(self) -> str:
        """Why no messages are received at present; empty when they are."""
        if self._error:
            return self._error
        silence = asyncio.get_running_loop().time() - self._received_at
        return "" if silence < self._stalled_after else f"nothing received for {silence:.0f} s"

    async def wait_until_subscribed(self) -> None:
        """Wait until the first probe has been received."""
        await self._subscribed.wait()

    async def run(self) -> None:
        """Receive messages until cancelled, and read the control log, which must not depend on
        pub/sub."""
        await _run_until_first_ends(self._connect_repeatedly(), self._read_control_log())

    async def _connect_repeatedly(self) -> None:
        """Receive messages; reconnect after each error, with back-off."""
        delays = backoff_delays(*_RETRY_SECONDS)
        while True:
            try:
                await self._connect_and_receive()
            except UNAVAILABLE as error:
                if not self._error:
                    delays = backoff_delays(*_RETRY_SECONDS)
                self._error = why(error)
                self._metrics.pubsub_subscribed.set(0)
                self._metrics.pubsub_restarts.inc()
                logger.warning("pub/sub failed, resubscribing", extra={"reason": self._error})
            await asyncio.sleep(next(delays))

    async def _connect_and_receive(self) -> None:
        async with asyncio.timeout(self._stalled_after):
            pubsub = await create_pubsub(self._redis)
        try:
            async with asyncio.timeout(self._stalled_after):
                await self._channels.open(pubsub)
            self._received_at = asyncio.get_running_loop().time()
            await _run_until_first_ends(self._receive(pubsub), self._publish_probes(pubsub))
        finally:
            self._channels.close()
            self._revocations.on_stalled()
            await asyncio.shield(pubsub.aclose())

    async def _receive(self, pubsub: Any) -> None:
        loop = asyncio.get_running_loop()
        while True:
            timeout = self._received_at + self._stalled_after - loop.time()
            message = await pubsub.get_message(timeout=max(_MIN_READ_SECONDS, timeout))
            if message is not None:
                self._received_at = loop.time()
                await self._on_message(message)
            elif (silence := loop.time() - self._received_at) >= self._stalled_after:
                raise TimeoutError(f"nothing received for {silence:.0f} s{self._probe_error}")

    async def _publish_probes(self, pubsub: Any) -> None:
        """Publish a probe periodically. An error is only stored: `_receive` detects that probes are
        missing."""
        while True:
            try:
                async with asyncio.timeout(self._stalled_after):
                    await publish_probe(self._redis, self._own_channel, _PROBE, subscription=pubsub)
                self._probe_error = ""
            except UNAVAILABLE as error:
                self._probe_error = f", last probe: {why(error)}"
            await asyncio.sleep(self._probe_seconds)

    async def _on_message(self, message: dict[str, Any]) -> None:
        if message["type"] in ("subscribe", "unsubscribe"):
            self._channels.on_confirmed(message["channel"].decode())
        if message["type"] != "message":
            return
        data: bytes = message["data"]
        if data == _PROBE:
            self._on_probe()
            return
        self._process(data)
        if self._written >= _FRAMES_PER_TURN:
            self._written = 0
            await asyncio.sleep(0)

    def _on_probe(self) -> None:
        if self._error:
            self._error = ""
            self._resync_needed.set()
            logger.info("pub/sub subscribed")
        self._metrics.pubsub_subscribed.set(1)
        self._revocations.on_subscribed()
        self._subscribed.set()

    async def _read_control_log(self) -> None:
        """Periodically apply the control messages that pub/sub missed. Errors of Redis are not
        logged here: the lease renewal logs them."""
        while True:
            with suppress(*UNAVAILABLE):
                await self._control_log.apply_missed(self._process)
            await asyncio.sleep(self._probe_seconds)

    def _process(self, data: bytes) -> None:
        try:
            self._dispatch(data)
        except Exception:
            logger.exception("pub/sub message skipped: it could not be processed")

    def _dispatch(self, data: bytes) -> None:
        kind, _, rest = data.partition(b"\n")
        match kind:
            case b"user":
                user_id, _, rest = rest.partition(b"\n")
                tracker = self._streams.of_user(user_id.decode())
                if tracker is None:  # the user has no connection here, but perhaps an index entry
                    self._users_to_compare.add(user_id.decode())
                self._on_event(tracker, rest)
            case b"topic":
                topic, _, rest = rest.partition(b"\n")
                self._on_event(self._streams.of_topic(topic.decode()), rest)
            case b"all":
                _, _, rest = rest.partition(b"\n")  # an empty line: everyone
                self._on_event(self._streams.all, rest)
            case b"connection":
                connection_id, _, text = rest.partition(b"\n")
                self._send(self._connection(connection_id), text)
            case b"logged":  # a control message that is also in the control log
                message_id, _, message = rest.partition(b"\n")
                if self._control_log.on_received(message_id.decode()):
                    self._dispatch(message)
            case b"user_unstored":
                user_id, _, text = rest.partition(b"\n")
                self._send(self._registry.by_user(user_id.decode()), text)
            case b"topic_unstored":
                topic, _, text = rest.partition(b"\n")
                self._send(self._streams.subscribers(topic.decode()), text)
            case b"all_unstored":
                self._send(self._registry.all(), rest)
            case b"close_connection":
                connection_id, _, code = rest.partition(b"\n")
                self._close(self._connection(connection_id), code)
            case b"close_user":
                user_id, _, code = rest.partition(b"\n")
                self._close(self._registry.by_user(user_id.decode()), code)
            case b"subscribe_user":
                user_id, _, topic = rest.partition(b"\n")
                self._subscriptions.subscribe_user(user_id.decode(), topic.decode())
            case b"unsubscribe_user":
                user_id, _, topic = rest.partition(b"\n")
                self._subscriptions.unsubscribe_user(user_id.decode(), topic.decode())
            case b"revoked":
                self._revocations.on_message(rest)
            case b"close_all":
                self._close(list(self._registry), rest)

    def _connection(self, connection_id: bytes) -> list[Connection]:
        connection = self._registry.by_id(connection_id.decode())
        return [] if connection is None else [connection]

    def _on_event(self, tracker: StreamTracker | None, rest: bytes) -> None:
        if tracker is not None:
            epoch, offset, text = rest.split(b"\n", 2)
            self._written += 1 + self._hub.on_message(
                tracker, Position(epoch.decode(), int(offset)), text
            )

    def _send(self, connections: Sequence[Connection], text: bytes) -> None:
        Connection.send_to_each(connections, Frame(text))
        self._metrics.deliveries.inc(len(connections))
        self._written += len(connections)

    def _close(self, connections: Sequence[Connection], code: bytes) -> None:
        for connection in connections:
            connection.close(int(code))


async def _run_until_first_ends(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Run coroutines until the first one ends; raise its exception.

    Not a TaskGroup, which cancels the others only once: `cancel_and_wait` says why that is not
    enough.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
    finally:
        await cancel_and_wait(*tasks)
