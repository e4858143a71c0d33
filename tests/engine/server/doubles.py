"""An event loop whose time passes, and a TCP transport whose peer reads, when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

Frames = list[tuple[int, bytes]]
"""Opcode and payload of each."""


@dataclass(eq=False)
class _Handle:
    when: float
    callback: Callable[..., object]
    arguments: tuple[Any, ...]
    is_cancelled: bool = False

    def cancel(self) -> None:
        """Forget the callback too, as a handle of asyncio does."""
        self.is_cancelled = True
        self.callback, self.arguments = int, ()

    def run(self) -> None:
        if not self.is_cancelled:
            self.callback(*self.arguments)


class ManualLoop:
    """The calls and timers of an event loop. Its tasks are real ones."""

    def __init__(self) -> None:
        self.now = 0.0
        self._ready: list[_Handle] = []
        self._timers: list[_Handle] = []

    @property
    def timers(self) -> int:
        """How many are set."""
        return sum(not one.is_cancelled for one in self._timers)

    def call_soon(self, callback: Callable[..., object], *arguments: Any) -> _Handle:
        handle = _Handle(self.now, callback, arguments)
        self._ready.append(handle)
        return handle

    def call_later(
        self, seconds: float, callback: Callable[..., object], *arguments: Any
    ) -> _Handle:
        return self.call_at(self.now + seconds, callback, *arguments)

    def call_at(self, when: float, callback: Callable[..., object], *arguments: Any) -> _Handle:
        handle = _Handle(when, callback, arguments)
        self._timers.append(handle)
        return handle

    def time(self) -> float:
        return self.now

    def create_task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(work)

    def turn(self) -> None:
        ready, self._ready = self._ready, []
        for handle in ready:
            handle.run()

    def settle(self) -> None:
        """Turn until nothing is left to do now."""
        while self._ready:
            self.turn()

    def advance(self, seconds: float) -> None:
        """Let time pass, timer by timer."""
        end = self.now + seconds
        while due := [one for one in self._timers if one.when <= end]:
            first = min(due, key=lambda one: one.when)
            self._timers.remove(first)
            self.now = max(self.now, first.when)
            first.run()
            self.settle()
        self.now = end


class PeerTransport:
    """A TCP transport as asyncio's. Its peer reads at once, or, while it stalls, nothing."""

    def __init__(self, loop: ManualLoop, *, can_write_eof: bool = True) -> None:
        self.written = b""
        self.is_stalled = self.is_paused = False
        self.is_reading = True
        self.resumed = 0
        self.is_lost = self.has_written_eof = False
        self._loop = loop
        self._can_write_eof = can_write_eof
        self._held = 0
        self._high, self._low = 65_536, 16_384
        self._is_closing = self._is_aborted = False
        self._protocol: asyncio.Protocol = asyncio.Protocol()

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        self._high, self._low = high, low
        self._pause_if_full()

    def get_extra_info(self, name: str) -> None:
        """A transport without addresses, as that of a UNIX socket."""

    def get_write_buffer_size(self) -> int:
        return self._held

    def is_closing(self) -> bool:
        return self._is_closing

    def write(self, data: bytes) -> None:
        if self.has_written_eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._is_aborted and not self.is_lost:
            return
        assert not self._is_closing, "written after the close"
        self.written += data
        if self.is_stalled:
            self._held += len(data)
            self._pause_if_full()

    def _pause_if_full(self) -> None:
        if self._held > self._high and not self.is_paused:
            self.is_paused = True
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        return self._can_write_eof

    def write_eof(self) -> None:
        assert self._can_write_eof
        self.has_written_eof = True

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True
        self.resumed += 1

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            if not self._held:
                self._loop.call_soon(self._lose)

    def abort(self) -> None:
        self._is_closing = self._is_aborted = True
        self._held = 0
        self._loop.call_soon(self._lose)

    def _lose(self) -> None:
        if not self.is_lost:
            self.is_lost = True
            self._protocol.connection_lost(None)

    def read(self, size: int) -> None:
        """The peer reads so much of what waits, and stalls again."""
        self._held -= min(size, self._held)
        if self.is_paused and self._held <= self._low and not self.is_lost:
            self.is_paused = False
            self._protocol.resume_writing()
        if self._is_closing and not self._held:
            self._loop.call_soon(self._lose)

    def read_all(self) -> None:
        """The peer reads all, and does not stall any more."""
        self.is_stalled = False
        self.read(self._held)


def frames_of(data: bytes) -> Frames:
    """The frames that a server has written, which are short and unmasked."""
    found = Frames()
    while data:
        length, start = data[1], 2
        if length == 126:
            length, start = int.from_bytes(data[2:4]), 4
        assert data[0] & 0xF0 == 0x80
        assert len(data) >= start + length, "half a frame"
        found.append((data[0] & 0x0F, data[start : start + length]))
        data = data[start + length :]
    return found
