"""A socket's way out: what waits to be written, and how much that may be."""

from __future__ import annotations

import asyncio

from bff.connections.frames import Frame
from bff.server.flush_scheduler import FlushScheduler


class WriteBuffer(asyncio.Protocol):
    """The half of a socket's protocol that writes.

    What gathers in a turn of the event loop is written in one go. The transport says "pause" as
    soon as it holds anything, so while it does not, nobody need ask how much it holds. ("Anything"
    is two bytes: with a mark of none, asyncio's TLS pauses when its buffer is empty.)
    """

    __slots__ = (
        "_is_paused",
        "_outgoing_bytes",
        "_pending",
        "_room",
        "_scheduler",
        "is_closing",
        "outgoing",
        "transport",
    )

    def __init__(self, scheduler: FlushScheduler, transport: asyncio.Transport) -> None:
        self._scheduler = scheduler
        self._pending = scheduler.pending
        self.transport = transport
        self.is_closing = False
        """Nothing is sent any more: a close frame was, or the peer is gone."""
        self.outgoing: bytes | list[bytes] | None = None
        """None while nothing waits and the transport holds nothing, so that a frame may be put
        here; bytes are that frame; else a list."""
        self._outgoing_bytes = 0
        """Of the list."""
        self._is_paused = False
        self._room: asyncio.Event | None = None
        transport.set_protocol(self)
        transport.set_write_buffer_limits(high=1, low=0)
        if transport.get_write_buffer_size() > 1:  # left by the protocol before, which was told
            self.pause_writing()

    @property
    def buffered(self) -> int:
        outgoing = self.outgoing
        waiting = len(outgoing) if isinstance(outgoing, bytes) else self._outgoing_bytes
        return waiting + self.transport.get_write_buffer_size()

    def write(self, frame: Frame, limit: int) -> bool:
        if self.outgoing is not None:
            return self._write_behind(frame.wire, limit)
        self.outgoing = frame.wire
        pending = self._pending
        if not pending:
            self._scheduler.flush_soon()
        pending.append(self)
        return True

    def _write_behind(self, wire: bytes, limit: int) -> bool:
        if self.is_closing:
            return True
        if self.buffered + len(wire) > limit:
            return False
        self.add(wire)
        return True

    def add(self, wire: bytes) -> None:
        """Let a frame wait, however much waits already."""
        outgoing = self.outgoing
        if isinstance(outgoing, bytes):
            self.outgoing, self._outgoing_bytes = [outgoing, wire], len(outgoing) + len(wire)
            return
        if not outgoing:
            self.outgoing = outgoing = []
            self._scheduler.schedule(self)
        outgoing.append(wire)
        self._outgoing_bytes += len(wire)

    def flush(self) -> None:
        """Hand over what has gathered."""
        outgoing = self.outgoing
        if not outgoing:
            return
        self._outgoing_bytes = 0
        self.outgoing = [] if self._is_paused else None
        self.transport.write(outgoing if isinstance(outgoing, bytes) else b"".join(outgoing))

    def drop(self) -> None:
        """Forget what has gathered."""
        self.outgoing, self._outgoing_bytes = [], 0

    def stop_sending(self) -> None:
        """Take nothing any more."""
        self.is_closing = True
        self.drop()

    async def drained(self) -> None:
        self.flush()
        if self._is_paused:
            if self._room is None:
                self._room = asyncio.Event()
            await self._room.wait()

    def pause_writing(self) -> None:
        self._is_paused = True
        if self.outgoing is None:
            self.outgoing = []

    def resume_writing(self) -> None:
        self._is_paused = False
        if not self.outgoing and not self.is_closing:
            self.outgoing = None
        if self._room is not None:
            self._room.set()
            self._room = None
