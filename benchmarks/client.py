"""One client for every candidate: raw sockets, one epoll, no frame ever taken apart.

Each message holds `MARK` once, and nothing else that a server sends does: counting messages is
`bytearray.count`, whatever the framing. The client costs about 2 µs per read, on a core of its own.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from benchmarks.parameters import OPENING, PATIENCE_SECONDS
from benchmarks.processes import BenchError, Control

MARK = ord("!")
_PING = 0x89
_TEXT = 0x81
_BUFFER_BYTES = 256 * 1024
_NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Opening:
    """How a socket comes to be open: what is said first, and what is answered to what."""

    request: bytes
    steps: tuple[tuple[bytes, bytes], ...] = ((b"\r\n\r\n", b""),)
    """Wait for the first, then send the second."""


@dataclass(frozen=True)
class Collected:
    """What came of one command."""

    answer: dict[str, Any]
    seconds: float
    """From the server's first send to the last frame on the last socket."""
    messages: int
    """Received, over all sockets."""


def upgrade(path: str, *headers: str) -> bytes:
    """The handshake's request (RFC 6455, section 4.1)."""
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def masked(payload: bytes, opcode: int = _TEXT) -> bytes:
    """A client's frame. The mask is zero, so that the payload goes as it is."""
    length = len(payload)
    if length < 126:
        return bytes((opcode, 0x80 | length, 0, 0, 0, 0)) + payload
    return bytes((opcode, 0x80 | 126)) + length.to_bytes(2) + bytes(4) + payload


class Sockets:
    """Any number of sockets to one server."""

    def __init__(
        self,
        port: int,
        opening: Callable[[int], Opening],
        *,
        heartbeat: tuple[bytes, bytes] | None = None,
    ) -> None:
        """`heartbeat` is a frame of the server's that must be answered, and the answer."""
        self._port = port
        self._opening = opening
        self._heartbeat = heartbeat
        self._sockets: dict[int, socket.socket] = {}
        self._received: dict[int, int] = {}
        self._poll = select.epoll()
        self._buffer = bytearray(_BUFFER_BYTES)

    def __len__(self) -> int:
        return len(self._sockets)

    def open(self, total: int) -> float:
        """Open more until there are `total`; the seconds that it took until all were ready."""
        begun = time.monotonic()
        numbers = iter(range(len(self), total))
        waiting: dict[int, tuple[bytearray, Iterator[tuple[bytes, bytes]], tuple[bytes, bytes]]]
        waiting = {}

        def begin() -> None:
            number = next(numbers, None)
            if number is None:
                return
            opening = self._opening(number)
            new = socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE_SECONDS)
            new.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            new.sendall(opening.request)
            new.setblocking(False)
            steps = iter(opening.steps)
            waiting[new.fileno()] = (bytearray(), steps, next(steps))
            self._sockets[new.fileno()] = new
            self._received[new.fileno()] = 0
            self._poll.register(new.fileno(), select.EPOLLIN)

        for _ in range(OPENING):
            begin()
        while waiting:
            for number, _ in self._wait():
                if number not in waiting:
                    self._read(number)
                    continue
                heard, steps, (expected, reply) = waiting[number]
                heard += self._receive(number)
                while expected in heard:
                    del heard[: heard.index(expected) + len(expected)]
                    if reply:
                        self._sockets[number].sendall(reply)
                    step = next(steps, None)
                    if step is None:
                        del waiting[number]
                        begin()
                        break
                    expected, reply = step
                    waiting[number] = (heard, steps, step)
        return time.monotonic() - begun

    def collect(
        self, control: Control, command: str, *, to_all: bool = True, **options: float
    ) -> Collected:
        """Give a command and count until all that it sent is here: at every socket, or once."""
        before = dict(self._received)
        control.begin(command, **options)
        line = control.fileno()
        self._poll.register(line, select.EPOLLIN)
        answer: dict[str, Any] | None = None
        deadline = time.monotonic() + PATIENCE_SECONDS
        received, expected, last = 0, 0, 0
        while answer is None or received < expected:
            fresh = 0
            for number, _ in self._wait(deadline):
                if number == line:
                    answer = control.finish()
                    expected = answer["sent"] * (len(self) if to_all else 1)
                else:
                    fresh += self._read(number)
            if fresh:
                received += fresh
                last = time.monotonic_ns()
        self._poll.unregister(line)
        if to_all:
            self._check(before, answer["sent"])
        return Collected(answer, (last - answer["started"]) / 1e9, received)

    def frame_bytes(self, control: Control, **options: float) -> int:
        """How many bytes one message has on the wire: the fewest that a socket got of it."""
        control.ask("once", **options)
        sizes: dict[int, int] = {}
        while len(sizes) < len(self):
            for number, _ in self._wait():
                sizes[number] = len(self._receive(number))
        return min(sizes.values())

    def stream(self, controls: Sequence[Control], seconds: float, **options: float) -> Collected:
        """Request messages one by one: as many in flight as connections for commands, each next
        one when an earlier one has reached all sockets."""
        begun, sent, received, last = time.monotonic_ns(), 0, 0, 0
        deadline = time.monotonic() + PATIENCE_SECONDS
        until = time.monotonic() + seconds
        begun_on: set[int] = set()
        before = dict(self._received)
        while True:
            more = time.monotonic() < until
            while more and sent < len(controls) + received // len(self):
                line = sent % len(controls)
                if line in begun_on:
                    controls[line].finish()
                controls[line].begin("once", **options)
                begun_on.add(line)
                sent += 1
            if not more and received >= sent * len(self):
                break
            for number, _ in self._wait(deadline):
                received += self._read(number)
            last = time.monotonic_ns()
        for line in begun_on:
            controls[line].finish()
        self._check(before, sent)
        return Collected({"sent": sent}, (last - begun) / 1e9, received)

    def call(self, request: Callable[[int], bytes], seconds: float) -> list[float]:
        """Call on every socket, one call at a time each, and return each call's seconds."""
        taken: list[float] = []
        begun: dict[int, float] = {}
        numbers = iter(range(10**9))
        until = time.monotonic() + seconds
        deadline = time.monotonic() + PATIENCE_SECONDS

        def begin(number: int) -> None:
            begun[number] = time.perf_counter()
            self._sockets[number].sendall(request(next(numbers)))

        for number in self._sockets:
            begin(number)
        while begun:
            for number, _ in self._wait(deadline):
                chunk = self._receive(number)
                if b'"response"' not in chunk:
                    continue
                if b'"error":null' not in chunk.replace(b" ", b""):
                    raise BenchError(f"a call failed: {chunk[:300]!r}")
                now = time.perf_counter()
                taken.append(now - begun.pop(number))
                if time.monotonic() < until:
                    begin(number)
        return taken

    def close(self) -> None:
        """Reset all of them: no port waits for anything afterwards."""
        for one in self._sockets.values():
            with suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            one.close()
        self._sockets.clear()
        self._poll.close()

    def _wait(self, deadline: float | None = None) -> list[tuple[int, int]]:
        ready = self._poll.poll(PATIENCE_SECONDS if deadline is None else 1.0)
        if not ready and (deadline is None or time.monotonic() > deadline):
            raise BenchError("nothing more came")
        return ready

    def _read(self, number: int) -> int:
        """How many messages one read brings."""
        buffer = self._buffer
        size = self._sockets[number].recv_into(buffer)
        if not size:
            raise BenchError("the server has closed a socket")
        messages = buffer.count(MARK, 0, size)
        if buffer.find(_PING, 0, size) >= 0:
            messages -= self._answer_pings(number, bytes(buffer[:size]))
        if self._heartbeat and buffer.find(self._heartbeat[0], 0, size) >= 0:
            self._sockets[number].sendall(self._heartbeat[1])
        self._received[number] += messages
        return messages

    def _receive(self, number: int) -> bytes:
        data = self._sockets[number].recv(_BUFFER_BYTES)
        if not data:
            raise BenchError("the server has closed a socket")
        if _PING in data:
            self._answer_pings(number, data)
        return data

    def _answer_pings(self, number: int, data: bytes) -> int:
        """Answer them, and say how many marks their payloads held by chance."""
        marks, at = 0, data.find(_PING)
        while 0 <= at < len(data) - 1:
            payload = data[at + 2 : at + 2 + data[at + 1]]
            self._sockets[number].sendall(masked(payload, 0x8A))
            marks += payload.count(MARK)
            at = data.find(_PING, at + 2 + len(payload))
        return marks

    def _check(self, before: dict[int, int], sent: int) -> None:
        """Every socket has received every message once."""
        for number, received in self._received.items():
            if received - before[number] != sent:
                raise BenchError(f"a socket got {received - before[number]} of {sent} messages")
