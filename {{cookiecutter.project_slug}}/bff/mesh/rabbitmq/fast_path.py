"""Sends calls and receives replies without aiormq, on a connection that aiormq manages.

aiormq takes a task and some twenty callbacks for each call. It still connects, declares, consumes
events and calls, sends heartbeats, and detects the end of the connection. Here the frames of some
channels are taken out of the stream before aiormq reads it, and calls are written to the socket
without aiormq's queue.
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
from bff.mesh.transport import ConnectionLost, Nacked, Unroutable

_HEARTBEAT_SECONDS = 1.0
"""While replies bypass aiormq, it gets a heartbeat this often. Otherwise it would assume that the
broker is dead."""

_TLS_FILES = ("cafile", "capath", "cadata", "certfile", "keyfile")
"""The options of a URL that aiormq reads TLS certificates from."""

logger = logging.getLogger(__name__)


class FrameHandler(Protocol):
    """Receives the frames of a channel."""

    def handle(self, kind: int, payload: bytes) -> bool:
        """Handle a frame. Returns False to leave the frame to aiormq."""


class FastPath(TransportFactory):
    """The `transport_factory` of one aiormq connection."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport | None = None
        self._handlers: dict[int, FrameHandler] = {}
        self._incomplete = b""
        self._is_amqp = True
        self._last_heartbeat = 0.0
        self._outgoing: list[bytes] = []
        self.close_reason = ""
        """The reason that the broker gave when it closed the connection. aiormq does not report it
        while the connection is being opened."""

    def add_handler(self, channel: int, handler: FrameHandler) -> None:
        """Pass the frames of a channel to a handler from now on."""
        self._handlers[channel] = handler

    def write(self, data: bytes) -> None:
        """Send frames, which must be complete. What is written in one iteration of the loop is sent
        together."""
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing.append(data)

    def _flush(self) -> None:
        data, self._outgoing = b"".join(self._outgoing), []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def abort(self) -> None:
        """Close the socket at once, if it is still open."""
        if self._transport is not None:
            self._transport.abort()

    async def create(
        self, url: URL, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        provider = options.pop("ssl_context_provider")
        ssl = await _ssl_context(provider, url) if url.scheme == "amqps" else None
        reader = asyncio.StreamReader()
        transport, protocol = await self._loop.create_connection(
            lambda: _Protocol(reader, self), url.host or "", url.port or 0, ssl=ssl, **options
        )
        self._transport = transport
        return reader, asyncio.StreamWriter(transport, protocol, reader, self._loop)

    def filter(self, data: bytes) -> bytes:
        """Pass received frames to their handlers. Returns the frames that are for aiormq."""
        if not self._is_amqp:
            return data
        data = self._incomplete + data
        others: list[bytes] = []
        at, handled = 0, False
        while len(data) - at >= wire.OVERHEAD:
            kind, channel, size = wire.FRAME.unpack_from(data, at)
            end = at + size + wire.OVERHEAD
            if end > len(data) and data.startswith(b"AMQP", at):
                # A broker of another protocol version answers with a header instead of frames.
                self._is_amqp = False
                return data
            if end > len(data):
                break
            handler = self._handlers.get(channel)
            if handler and _handle(handler, kind, data[at + wire.FRAME.size : end - 1]):
                handled = True
            elif kind == wire.HEADER:
                others.append(_decodable(data[at:end], channel))
            elif kind == wire.METHOD and data.startswith(wire.DELIVER, at + wire.FRAME.size):
                others.append(_decodable_deliver(data[at:end], channel))
            else:
                if not channel and data.startswith(wire.CLOSE, at + wire.FRAME.size):
                    self.close_reason = wire.read_close(data[at + wire.FRAME.size : end - 1])
                others.append(data[at:end])
            at = end
        self._incomplete = data[at:]
        if handled and (now := self._loop.time()) - self._last_heartbeat > _HEARTBEAT_SECONDS:
            self._last_heartbeat = now
            others.append(wire.HEARTBEAT)
        return b"".join(others)


async def _ssl_context(provider: Any, url: URL) -> Any:
    """The TLS context that aiormq makes of the URL.

    Raises:
        ConnectionLost: a file that the URL names cannot be used.
    """
    try:
        return await provider.get_context()
    except (OSError, ValueError) as error:
        named = [f"{name} {url.query[name]!r}" for name in _TLS_FILES if name in url.query]
        raise ConnectionLost(
            f"TLS: cannot use {' and '.join(named) or 'the certificates'} of AMQP_URL: {error}"
        ) from error


class _Protocol(asyncio.StreamReaderProtocol):
    def __init__(self, reader: asyncio.StreamReader, fast_path: FastPath) -> None:
        super().__init__(reader)
        self._fast_path = fast_path

    def data_received(self, data: bytes) -> None:
        if others := self._fast_path.filter(data):
            super().data_received(others)


def _handle(handler: FrameHandler, kind: int, payload: bytes) -> bool:
    try:
        return handler.handle(kind, payload)
    except Exception:
        logger.exception("AMQP frame dropped: its handler failed")
        return True


def _decodable(frame: bytes, channel: int) -> bytes:
    """A content header without its properties if pamqp cannot decode them.

    Otherwise aiormq would lose the connection at each delivery of the message.
    """
    try:
        pamqp.frame.unmarshal(frame)
    except Exception as error:
        logger.warning("message properties ignored: not decodable", extra={"error": repr(error)})
        return wire.bare_header(channel, frame)
    return frame


def _decodable_deliver(frame: bytes, channel: int) -> bytes:
    """A `basic.deliver` whose names pamqp can decode, for the same reason."""
    try:
        wire.check_names(frame)
    except UnicodeDecodeError as error:
        logger.warning("routing key changed: not UTF-8", extra={"error": repr(error)})
        return wire.with_utf8_names(channel, frame)
    return frame


class MessageAssembler:
    """Assembles the messages of a channel: a method frame, a content header, body frames."""

    def __init__(self, method: bytes, on_message: Callable[[str, bytes], None]) -> None:
        """`method` is how the payload of the method frame begins: `wire.DELIVER` or `wire.RETURN`.

        `on_message` receives the correlation id and the body of each message.
        """
        self._method = method
        self._on_message = on_message
        self._in_message = False
        self._correlation_id = ""
        self._missing = 0
        self._parts: list[bytes] = []

    def handle(self, kind: int, payload: bytes) -> bool:
        if kind == wire.METHOD:
            self._in_message = payload.startswith(self._method)
            self._correlation_id, self._missing, self._parts = "", 0, []
            return self._in_message
        if not self._in_message:
            return False
        if kind == wire.HEADER:
            self._missing, self._correlation_id = wire.read_header(payload)
        else:
            self._missing -= len(payload)
            self._parts.append(payload)
        if self._missing <= 0:
            body, self._parts = b"".join(self._parts), []
            self._on_message(self._correlation_id, body)
        return True


class Publisher:
    """Publishes on a channel with confirms. It must be the only publisher on that channel."""

    def __init__(self, fast_path: FastPath, channel: int, frame_max: int) -> None:
        self._fast_path = fast_path
        self._channel = channel
        self._frame_max = frame_max
        self._tag = 0
        self._unconfirmed: dict[int, tuple[str, asyncio.Future[None]]] = {}
        self._returned: set[str] = set()
        self._returns = MessageAssembler(
            wire.RETURN, lambda correlation_id, _: self._on_return(correlation_id)
        )
        fast_path.add_handler(channel, self)

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
        """Publish a message. The future is done when the broker has confirmed it.

        Raises:
            Unroutable: from the future: no queue is bound for the message (`basic.return`).
            Nacked: from the future: a queue refused the message (`basic.nack`).
            ConnectionLost: from the future: the connection ended before the confirm.
            ValueError: `exchange` or `routing_key` is longer than 255 bytes.
        """
        self._fast_path.write(
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

    def close(self) -> None:
        """Fail what is unconfirmed: the channel is lost."""
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        for _, confirm in unconfirmed.values():
            if not confirm.done():
                confirm.set_exception(ConnectionLost("the connection was closed"))

    def handle(self, kind: int, payload: bytes) -> bool:
        if kind != wire.METHOD or not payload.startswith((wire.ACK, wire.NACK)):
            return self._returns.handle(kind, payload)
        last, multiple = wire.read_confirm(payload)
        refused = payload.startswith(wire.NACK)
        while multiple and self._unconfirmed and (tag := next(iter(self._unconfirmed))) < last:
            self._confirm(tag, refused=refused)
        self._confirm(last, refused=refused)
        return True

    def _on_return(self, correlation_id: str) -> None:
        """The broker returns an unroutable message before it confirms it."""
        self._returned.add(correlation_id)

    def _confirm(self, tag: int, *, refused: bool) -> None:
        correlation_id, confirm = self._unconfirmed.pop(tag, ("", None))
        returned = correlation_id in self._returned
        self._returned.discard(correlation_id)
        if confirm is None or confirm.done():
            return
        if returned:
            confirm.set_exception(Unroutable(correlation_id))
        elif refused:
            confirm.set_exception(Nacked(correlation_id))
        else:
            confirm.set_result(None)
