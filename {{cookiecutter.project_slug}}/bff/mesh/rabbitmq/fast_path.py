"""A connection's fast lane: calls and replies pass by aiormq, which keeps everything else.

aiormq costs a task and some twenty callbacks per call. It still connects, declares, consumes event
rules, sends heartbeats, and learns how the connection ends. Here frames of a lane's channels are
taken out of the stream before it sees them, and calls are written past its queue.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Protocol

import pamqp.frame
from aiormq.connection import TransportFactory
from yarl import URL

from bff.mesh import wire
from bff.mesh.transport import ConnectionLost, Unroutable

_SIGN_OF_LIFE_SECONDS = 1.0
"""So often aiormq is shown that the broker lives, which it would take for silent otherwise."""

logger = logging.getLogger(__name__)


class FrameHandler(Protocol):
    """Whom the frames of a channel are offered to."""

    def take(self, kind: int, payload: bytes) -> bool:
        """Take a frame, or leave it to aiormq: False."""


class FastPath(TransportFactory):
    """Of one connection. Give it to aiormq as its `transport_factory`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._takers: dict[int, FrameHandler] = {}
        self._incoming = b""
        self._is_stream_of_frames = True
        self._shown_at = 0.0
        self._outgoing: list[bytes] = []

    def take(self, channel: int, taker: FrameHandler) -> None:
        """Offer the frames of a channel to `taker` from now on."""
        self._takers[channel] = taker

    def write(self, data: bytes) -> None:
        """Send whole frames, in one write with the others of this turn of the loop."""
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(data)

    def _flush(self) -> None:
        data, self._outgoing = b"".join(self._outgoing), []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def create(
        self, url: URL, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        provider = options.pop("ssl_context_provider")
        ssl = await provider.get_context() if url.scheme == "amqps" else None
        reader = asyncio.StreamReader()
        transport, protocol = await self._loop.create_connection(
            lambda: _Stream(reader, self), url.host or "", url.port or 0, ssl=ssl, **options
        )
        self._transport = transport
        return reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)

    def divide(self, data: bytes) -> bytes:
        """Hand the frames that came to their takers, and return the others."""
        if not self._is_stream_of_frames:
            return data
        data = self._incoming + data
        others: list[bytes] = []
        at, taken = 0, False
        while len(data) - at >= wire.OVERHEAD:
            kind, channel, size = wire.FRAME.unpack_from(data, at)
            end = at + size + wire.OVERHEAD
            if end > len(data) and data.startswith(b"AMQP", at):
                self._is_stream_of_frames = False
                return data
            if end > len(data):
                break
            taker = self._takers.get(channel)
            if taker and _takes(taker, kind, data[at + wire.FRAME.size : end - 1]):
                taken = True
            elif kind == wire.HEADER:
                others.append(_readable(data[at:end], channel))
            else:
                others.append(data[at:end])
            at = end
        self._incoming = data[at:]
        if taken and (now := self._loop.time()) - self._shown_at > _SIGN_OF_LIFE_SECONDS:
            self._shown_at = now
            others.append(wire.HEARTBEAT)
        return b"".join(others)


class _Stream(asyncio.StreamReaderProtocol):
    def __init__(self, reader: asyncio.StreamReader, lane: FastPath) -> None:
        super().__init__(reader)
        self._lane = lane

    def data_received(self, data: bytes) -> None:
        if others := self._lane.divide(data):
            super().data_received(others)


def _takes(taker: FrameHandler, kind: int, payload: bytes) -> bool:
    try:
        return taker.take(kind, payload)
    except Exception:
        logger.exception("a message of the mesh could not be taken")
        return True


def _readable(frame: bytes, channel: int) -> bytes:
    """A header that pamqp cannot decode would end aiormq's reader, and so the connection, at each
    delivery: its properties are left out."""
    try:
        pamqp.frame.unmarshal(frame)
    except Exception as error:
        logger.warning("a message's properties cannot be read and are left out: %s", error)
        return wire.bare_header(channel, frame)
    return frame


class Contents:
    """Puts messages together: what announces them, a header, bodies until its size is reached."""

    def __init__(self, method: bytes, on_message: Callable[[str, bytes], None]) -> None:
        """`on_message` is given correlation id and body of what `method` announces."""
        self._method = method
        self._on_message = on_message
        self._announced = False
        self._correlation_id = ""
        self._left = 0
        self._parts: list[bytes] = []

    def take(self, kind: int, payload: bytes) -> bool:
        if kind == wire.METHOD:
            self._announced = payload.startswith(self._method)
            return self._announced
        if not self._announced:
            return False
        if kind == wire.HEADER:
            self._left, self._correlation_id = wire.content(payload)
        else:
            self._left -= len(payload)
            self._parts.append(payload)
        if self._left <= 0:
            body, self._parts = b"".join(self._parts), []
            self._announced = False
            self._on_message(self._correlation_id, body)
        return True


class Publisher:
    """Publishes on a channel with confirms. Nobody else may publish there."""

    def __init__(self, lane: FastPath, channel: int, frame_max: int) -> None:
        self._lane = lane
        self._channel = channel
        self._frame_max = frame_max
        self._tag = 0
        self._unconfirmed: dict[int, tuple[str, asyncio.Future[None]]] = {}
        self._returned: set[str] = set()
        self._returns = Contents(
            wire.RETURN, lambda correlation_id, _: self._return(correlation_id)
        )
        lane.take(channel, self)

    @property
    def unconfirmed(self) -> int:
        """How many messages the broker has not confirmed yet."""
        return len(self._unconfirmed)

    def publish(
        self,
        correlation_id: str,
        body: bytes,
        *,
        exchange: str,
        routing_key: str,
        mandatory: bool,
        properties: bytes,
    ) -> asyncio.Future[None]:
        """Publish; done when the broker has confirmed.

        Raises:
            Unroutable: from the future: no queue took it, or the broker refused it.
            ConnectionLost: from the future: the connection ended before the confirm.
            ValueError: a name is too long.
        """
        self._lane.write(
            wire.publish(
                self._channel,
                self._frame_max,
                exchange=exchange,
                routing_key=routing_key,
                mandatory=mandatory,
                properties=properties,
                body=body,
            )
        )
        confirm: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tag += 1
        self._unconfirmed[self._tag] = (correlation_id, confirm)
        return confirm

    def end(self) -> None:
        """The channel is gone: nothing more will be confirmed."""
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        for _, confirm in unconfirmed.values():
            if not confirm.done():
                confirm.set_exception(ConnectionLost("the connection was closed"))

    def take(self, kind: int, payload: bytes) -> bool:
        if kind != wire.METHOD or not payload.startswith((wire.ACK, wire.NACK)):
            return self._returns.take(kind, payload)
        last, multiple = wire.confirmed(payload)
        refused = payload.startswith(wire.NACK)
        while multiple and self._unconfirmed and (tag := next(iter(self._unconfirmed))) < last:
            self._confirm(tag, refused=refused)
        self._confirm(last, refused=refused)
        return True

    def _return(self, correlation_id: str) -> None:
        """The broker says so first, and confirms then."""
        self._returned.add(correlation_id)

    def _confirm(self, tag: int, *, refused: bool) -> None:
        correlation_id, confirm = self._unconfirmed.pop(tag, ("", None))
        if correlation_id in self._returned:
            self._returned.remove(correlation_id)
            refused = True
        if confirm is None or confirm.done():
            return
        if refused:
            confirm.set_exception(Unroutable(correlation_id))
        else:
            confirm.set_result(None)
