"""The sending half of a WebSocket: frames that wait to be written, and their limit."""

from __future__ import annotations

import asyncio

from bff.connections.frames import Frame
from bff.server.flush_scheduler import FlushScheduler


class WriteBuffer(asyncio.Protocol):
    """Collects the frames of one turn of the event loop and writes them at once.

    The transport's high-water mark is one byte, so it calls `pause_writing` as soon as it buffers
    anything. Until then there is no need to ask for its buffer size, and a frame is accepted
    whatever its size. (The mark is not zero because asyncio's TLS transport would pause on an empty
    buffer.)
    """

    __slots__ = (
        "_is_paused",
        "_outgoing_bytes",
        "_pending",
        "_scheduler",
        "_writable",
        "is_closing",
        "outgoing",
        "transport",
    )

    def __init__(self, scheduler: FlushScheduler, transport: asyncio.Transport) -> None:
        self._scheduler = scheduler
        self._pending = scheduler.pending
        self.transport = transport
        self.is_closing = False
        """Nothing is sent any more: a close frame was sent, or the connection is lost."""
        self.outgoing: bytes | list[bytes] | None = None
        """None: nothing waits and the transport's buffer is empty, so a frame can be put here.
        Bytes: this one frame waits. A list: these frames wait. An empty list: none waits, but
        the next must, because the transport is paused or the connection is closing."""
        self._outgoing_bytes = 0
        """Size of the frames in the list."""
        self._is_paused = False
        self._writable: asyncio.Event | None = None
        """Set when the transport resumes. Created only while `drained` waits."""
        transport.set_protocol(self)
        transport.set_write_buffer_limits(high=1, low=0)
        if transport.get_write_buffer_size() > 1:  # it has paused the HTTP protocol, not this one
            self.pause_writing()

    @property
    def buffered(self) -> int:
        """Bytes that are not yet handed to the operating system."""
        outgoing = self.outgoing
        waiting = len(outgoing) if isinstance(outgoing, bytes) else self._outgoing_bytes
        return waiting + self.transport.get_write_buffer_size()

    def write(self, frame: Frame, limit: int) -> bool:
        """Send a frame; False if others wait and it would exceed `limit` bytes, as
        `bff.connections.transport.Transport` defines it."""
        if self.outgoing is not None:
            return self._write_behind(frame.wire, limit)
        self.outgoing = frame.wire
        pending = self._pending
        if not pending:
            self._scheduler.schedule_flush()
        pending.append(self)
        return True

    def _write_behind(self, wire: bytes, limit: int) -> bool:
        if self.is_closing:
            return True
        if self.buffered + len(wire) > limit:
            return False
        self.enqueue(wire)
        return True

    def enqueue(self, wire: bytes) -> None:
        """Append a frame without checking a limit."""
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
        """Write the waiting frames to the transport."""
        outgoing = self.outgoing
        if not outgoing:
            return
        self._outgoing_bytes = 0
        self.outgoing = [] if self._is_paused else None
        self.transport.write(outgoing if isinstance(outgoing, bytes) else b"".join(outgoing))

    def discard_outgoing(self) -> None:
        """Drop the waiting frames."""
        self.outgoing, self._outgoing_bytes = [], 0

    def stop_sending(self) -> None:
        """Drop the waiting frames and ignore all later ones."""
        self.is_closing = True
        self.discard_outgoing()

    async def drained(self) -> None:
        """Wait until the transport's buffer is empty or the connection is lost."""
        self.flush()
        if self._is_paused:
            if self._writable is None:
                self._writable = asyncio.Event()
            await self._writable.wait()

    def pause_writing(self) -> None:
        """The transport buffers data (`asyncio.Protocol`)."""
        self._is_paused = True
        if self.outgoing is None:
            self.outgoing = []

    def resume_writing(self) -> None:
        """The transport's buffer is empty (`asyncio.Protocol`)."""
        self._is_paused = False
        if not self.outgoing and not self.is_closing:
            self.outgoing = None
        if self._writable is not None:
            self._writable.set()
            self._writable = None
