"""Listens to Redis for what other instances send, and gives it to the sockets held here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from bff.backoff import backoff_delays
from bff.cluster.envelopes import Kind, envelope
from bff.cluster.keys import Keys
from bff.cluster.pubsub_channels import PubSubChannels
from bff.cluster.stream_hub import StreamHub
from bff.cluster.stream_tracker import StreamTracker
from bff.cluster.subscriptions import Subscriptions
from bff.connections.connection import Connection
from bff.connections.frames import Frame
from bff.connections.positions import Position
from bff.connections.registry import ConnectionRegistry
from bff.redis.client import UNAVAILABLE, RedisClient, new_pubsub, publish_to, why
from bff.settings import Settings
from bff.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

_PROBE = envelope(Kind.PROBE).encode()
_PROBES_UNHEARD = 3
_LONGEST_PAUSE = 5.0
_TELL_AGAIN = 1.0
_LAST_LOOK = 0.05
"""Seconds to read what has come while this process stood still, before it is called silence."""
_TURN = 10_000
"""After so many frames others get their turn, about 5 ms: a stream of messages may never be empty,
and what comes to a socket within a turn leaves in one write."""


class PubSubListener:
    """One subscription per instance, which proves that it hears.

    A subscriber can go deaf without any error: a half-open TCP connection, an output limit. So
    the relay keeps sending itself a probe through Redis; silence restarts the subscription, and
    `hears` is false meanwhile.
    """

    def __init__(
        self,
        instance_id: str,
        redis: RedisClient,
        registry: ConnectionRegistry,
        channels: PubSubChannels,
        trackers: StreamHub,
        subscriptions: Subscriptions,
        missed: asyncio.Event,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._own_channel = Keys(settings.prefix).to_instance + instance_id
        self._redis = redis
        self._registry = registry
        self._channels = channels
        self._hub = trackers
        self._subscriptions = subscriptions
        self._missed = missed
        self._metrics = metrics
        self._probe_seconds = settings.pubsub_probe_seconds
        self._reason = "not listening yet"
        self._heard_at = 0.0
        self._listening = asyncio.Event()
        self._written = 0
        self._unsent = ""
        """Why the last probe could not be sent; empty when it could."""

    @property
    def reason(self) -> str:
        """Why the relay does not hear; empty when it does."""
        if self._reason:
            return self._reason
        silence = asyncio.get_running_loop().time() - self._heard_at
        return "" if silence < self._stalled_after else f"heard nothing for {silence:.0f} s"

    @property
    def _stalled_after(self) -> float:
        return self._probe_seconds * _PROBES_UNHEARD

    async def listening(self) -> None:
        """Wait until the subscription stands for the first time."""
        await self._listening.wait()

    async def run(self) -> None:
        """Listen for ever; after each failure anew, with back-off and jitter."""
        waits = backoff_delays(0.1, _LONGEST_PAUSE)
        while True:
            try:
                await self._listen()
            except UNAVAILABLE as error:
                if not self._reason:
                    waits = backoff_delays(0.1, _LONGEST_PAUSE)
                self._reason = why(error)
                self._metrics.pubsub_subscribed.set(0)
                self._metrics.pubsub_restarts.inc()
                logger.warning("relay is deaf, listening anew: %s", self._reason)
            await asyncio.sleep(next(waits))

    async def _listen(self) -> None:
        async with asyncio.timeout(self._stalled_after):
            pubsub = await new_pubsub(self._redis)
        try:
            async with asyncio.timeout(self._stalled_after):
                await self._channels.open(pubsub)
            self._heard_at = asyncio.get_running_loop().time()
            await _until_one_ends(self._hear_for_ever(pubsub), self._probe_for_ever(pubsub))
        finally:
            self._channels.close()
            await asyncio.shield(pubsub.aclose())

    async def _hear_for_ever(self, pubsub: Any) -> None:
        loop = asyncio.get_running_loop()
        while True:
            patience = self._heard_at + self._stalled_after - loop.time()
            message = await pubsub.get_message(timeout=max(_LAST_LOOK, patience))
            if message is not None:
                self._heard_at = loop.time()
                await self._on_message(message)
            elif (silence := loop.time() - self._heard_at) >= self._stalled_after:
                raise TimeoutError(f"heard nothing for {silence:.0f} s{self._unsent}")

    async def _probe_for_ever(self, pubsub: Any) -> None:
        """A probe that cannot be sent is one that is not heard: the silence decides."""
        while True:
            try:
                async with asyncio.timeout(self._stalled_after):
                    await publish_to(self._redis, pubsub, self._own_channel, _PROBE)
                self._unsent = ""
            except UNAVAILABLE as error:
                self._unsent = f", the last probe: {why(error)}"
            await asyncio.sleep(self._probe_seconds)

    async def _on_message(self, message: dict[str, Any]) -> None:
        if message["type"] in ("subscribe", "unsubscribe"):
            self._channels.confirmed(message["channel"].decode())
        if message["type"] != "message":
            return
        data: bytes = message["data"]
        if data == _PROBE:
            self._hears()
            return
        try:
            self._open(data)
        except Exception:
            logger.exception("an envelope could not be dealt with")
        if self._written >= _TURN:
            self._written = 0
            await asyncio.sleep(0)

    def _hears(self) -> None:
        if self._reason:
            self._reason = ""
            self._missed.set()
            logger.info("relay hears")
        self._metrics.pubsub_subscribed.set(1)
        self._listening.set()

    def _open(self, data: bytes) -> None:
        kind, _, rest = data.partition(b"\n")
        match kind:
            case b"user":
                user_id, _, rest = rest.partition(b"\n")
                self._hear(self._hub.of_user(user_id.decode()), rest)
            case b"topic":
                topic, _, rest = rest.partition(b"\n")
                self._hear(self._hub.of_topic(topic.decode()), rest)
            case b"all":
                self._hear(self._hub.of_all(), rest.partition(b"\n")[2])
            case b"connection":
                connection_id, _, text = rest.partition(b"\n")
                self._send(self._one(connection_id), text)
            case b"close_connection":
                connection_id, _, code = rest.partition(b"\n")
                self._close(self._one(connection_id), code)
            case b"close_user":
                user_id, _, code = rest.partition(b"\n")
                self._close(self._registry.by_user(user_id.decode()), code)
            case b"subscribe_user":
                user_id, _, topic = rest.partition(b"\n")
                self._subscriptions.subscribe_user(user_id.decode(), topic.decode())
            case b"unsubscribe_user":
                user_id, _, topic = rest.partition(b"\n")
                self._subscriptions.unsubscribe_user(user_id.decode(), topic.decode())
            case b"close_all":
                self._close(list(self._registry), rest)

    def _one(self, connection_id: bytes) -> list[Connection]:
        connection = self._registry.by_id(connection_id.decode())
        return [] if connection is None else [connection]

    def _hear(self, tracker: StreamTracker | None, rest: bytes) -> None:
        if tracker is not None:
            epoch, offset, text = rest.split(b"\n", 2)
            self._written += 1 + self._hub.hear(
                tracker, Position(epoch.decode(), int(offset)), text
            )

    def _send(self, connections: Sequence[Connection], text: bytes) -> None:
        Connection.send_to_each(connections, Frame(text))
        self._metrics.deliveries.inc(len(connections))

    def _close(self, connections: Sequence[Connection], code: bytes) -> None:
        for connection in connections:
            connection.close(int(code))


async def _until_one_ends(*works: Coroutine[Any, Any, None]) -> None:
    """Run all until one ends, and raise what it raised.

    Unlike a TaskGroup this tells the others to end as often as it takes: on Python 3.11
    `asyncio.wait_for`, in whatever library, can lose a cancellation.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()
    finally:
        while running := [task for task in tasks if not task.done()]:
            for task in running:
                task.cancel()
            await asyncio.wait(running, timeout=_TELL_AGAIN)
