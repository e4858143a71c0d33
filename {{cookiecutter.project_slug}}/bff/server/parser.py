"""Parses the frames that a client sends (RFC 6455, section 5)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # no compiled extension on this platform
    from websockets.utils import apply_mask

from bff.connections.close_codes import CloseCode, is_sendable

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

_FIN: Final = 0x80
_RESERVED: Final = 0x70
_MASKED: Final = 0x80
_MAX_CONTROL_BYTES: Final = 125
_MAX_SMALL_FRAMES: Final = 300
"""Control frames and fragments per second. Whole messages are limited by their receiver."""


class BadFrameError(Exception):
    """The client violated the protocol; `code` and `reason` go into the close frame."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code: Final = code
        self.reason: Final = reason


class Parser:
    """An incremental parser: takes bytes in chunks of any size and buffers incomplete frames."""

    __slots__ = (
        "_buffer",
        "_max_size",
        "_message",
        "_needed",
        "_opcode",
        "_small_frames",
        "_small_frames_since",
    )

    def __init__(self, max_size: int) -> None:
        """`max_size`: bytes of a message, over all its fragments."""
        self._max_size = max_size
        self._buffer = bytearray()
        """The part of an incomplete frame that has arrived."""
        self._needed = 2
        """Bytes that the buffer must hold before parsing can continue."""
        self._message = bytearray()
        """Payload of the fragments received so far."""
        self._opcode: int | None = None
        """Opcode of the fragmented message; None when there is none."""
        self._small_frames = 0
        """Control frames and fragments since `_small_frames_since`."""
        self._small_frames_since = 0.0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield opcode and unmasked payload of each complete message and control frame.

        A fragmented message is yielded once, whole. Do not feed data after a close frame.

        Raises:
            BadFrameError: on reaching an invalid frame, after the valid ones before it.
        """
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        at, end = 0, len(data)
        while at < end:
            start, length = self._parse_header(data, at)
            stop = start + length
            if stop > end:
                self._buffer += data[at:]
                self._needed = stop - at
                return
            payload = apply_mask(data[start:stop], data[start - 4 : start]) if length else b""
            first = data[at]
            at = stop
            opcode = first & 0x0F
            if opcode and opcode < CLOSE and first & _FIN:
                yield opcode, payload
                continue
            self._small_frames += 1
            if self._small_frames > _MAX_SMALL_FRAMES:
                self._check_small_frames()
            if opcode >= CLOSE:
                yield opcode, payload
            elif first & _FIN:
                whole, kind = bytes(self._message + payload), self._opcode
                assert kind is not None  # noqa: S101
                self._message.clear()
                self._opcode = None
                yield kind, whole
            else:
                self._message += payload
                self._opcode = opcode or self._opcode

    def _check_small_frames(self) -> None:
        now = time.monotonic()
        if now - self._small_frames_since < 1:
            raise BadFrameError(CloseCode.TOO_MANY_REQUESTS, "too many frames")
        self._small_frames, self._small_frames_since = 0, now

    def _parse_header(self, data: bytes, at: int) -> tuple[int, int]:
        """Offset and length of the payload; an offset past the data if the header is incomplete."""
        if len(data) - at < 2:
            return at + 2, 0
        first, second = data[at], data[at + 1]
        opcode, length, start = first & 0x0F, second & 0x7F, at + 6
        if first & _RESERVED:
            raise BadFrameError(CloseCode.PROTOCOL_ERROR, "reserved bits set")
        if not second & _MASKED:
            raise BadFrameError(CloseCode.PROTOCOL_ERROR, "frame not masked")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise BadFrameError(CloseCode.PROTOCOL_ERROR, "unknown opcode")
            if length > _MAX_CONTROL_BYTES or not first & _FIN:
                raise BadFrameError(CloseCode.PROTOCOL_ERROR, "invalid control frame")
            return start, length
        if opcode > BINARY:
            raise BadFrameError(CloseCode.PROTOCOL_ERROR, "unknown opcode")
        if (opcode == CONTINUATION) is (self._opcode is None):
            raise BadFrameError(CloseCode.PROTOCOL_ERROR, "fragments out of order")
        if length > _MAX_CONTROL_BYTES:
            width = 2 if length == 126 else 8
            start += width
            length = int.from_bytes(data[at + 2 : at + 2 + width])
            if len(data) < at + 2 + width:
                return start, 0
            if length <= (_MAX_CONTROL_BYTES if width == 2 else 0xFFFF):
                raise BadFrameError(CloseCode.PROTOCOL_ERROR, "length not in its shortest form")
        if len(self._message) + length > self._max_size:
            raise BadFrameError(CloseCode.MESSAGE_TOO_BIG, "message too big")
        return start, length


class IgnoreInput:
    """Replaces the parser after a close frame or an invalid frame."""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield nothing."""
        return iter(())


IGNORE_INPUT: Final = IgnoreInput()


def close_code(payload: bytes) -> int:
    """The close code in the payload of a close frame (section 7.4).

    Raises:
        BadFrameError: the code may not be sent, or the reason is not UTF-8.
    """
    if not payload:
        return CloseCode.NO_STATUS
    code = int.from_bytes(payload[:2])
    if len(payload) < 2 or not is_sendable(code):
        raise BadFrameError(CloseCode.PROTOCOL_ERROR, "invalid close code")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise BadFrameError(CloseCode.INVALID_DATA, "the close reason is not UTF-8") from None
    return code
