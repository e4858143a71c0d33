"""What a client sends, taken apart (RFC 6455, section 5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

try:
    from websockets.speedups import apply_mask
except ImportError:  # where there is no compiled one
    from websockets.utils import apply_mask

from bff.server.codes import INVALID_DATA, NO_STATUS, PROTOCOL_ERROR, TOO_BIG, may_be_sent

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

_FIN: Final = 0x80
_RESERVED: Final = 0x70
_MASKED: Final = 0x80
_MOST_CONTROL: Final = 125


class BadFrameError(Exception):
    """The client broke the protocol: the code to close its socket with, and why."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code: Final = code
        self.reason: Final = reason


class Parser:
    """Takes bytes as they come, in whatever pieces, and holds what is not complete yet."""

    __slots__ = ("_held", "_max_size", "_message", "_needed", "_opcode")

    def __init__(self, max_size: int) -> None:
        """`max_size` bounds the bytes of a message, over all its fragments."""
        self._max_size = max_size
        self._held = bytearray()
        """A frame that has come in part."""
        self._needed = 2
        """How many bytes must be held to go on."""
        self._message = bytearray()
        """What has come of a fragmented message."""
        self._opcode: int | None = None
        """What kind of message that is."""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Opcode and payload of each message and control frame that is complete now.

        A message that came in fragments comes out whole. After a close frame nothing is to be fed.

        Raises:
            BadFrameError: when the iteration comes to where the client went wrong.
        """
        if self._held:
            self._held += data
            if len(self._held) < self._needed:
                return
            data = bytes(self._held)
            self._held.clear()
        at, end = 0, len(data)
        while at < end:
            start, length = self._head(data, at)
            stop = start + length
            if stop > end:
                self._held += data[at:]
                self._needed = stop - at
                return
            payload = apply_mask(data[start:stop], data[start - 4 : start]) if length else b""
            first = data[at]
            at = stop
            opcode = first & 0x0F
            if opcode >= CLOSE or (first & _FIN and opcode):
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

    def _head(self, data: bytes, at: int) -> tuple[int, int]:
        """Where the payload starts, and how long it is; beyond the data when that is incomplete."""
        if len(data) - at < 2:
            return at + 2, 0
        first, second = data[at], data[at + 1]
        opcode, length, start = first & 0x0F, second & 0x7F, at + 6
        if first & _RESERVED:
            raise BadFrameError(PROTOCOL_ERROR, "reserved bits are set")
        if not second & _MASKED:
            raise BadFrameError(PROTOCOL_ERROR, "a frame is not masked")
        if opcode >= CLOSE:
            if opcode > PONG:
                raise BadFrameError(PROTOCOL_ERROR, "unknown opcode")
            if length > _MOST_CONTROL or not first & _FIN:
                raise BadFrameError(PROTOCOL_ERROR, "a control frame is long or fragmented")
            return start, length
        if opcode > BINARY:
            raise BadFrameError(PROTOCOL_ERROR, "unknown opcode")
        if (opcode == CONTINUATION) is (self._opcode is None):
            raise BadFrameError(PROTOCOL_ERROR, "a fragment is out of place")
        if length > _MOST_CONTROL:
            width = 2 if length == 126 else 8
            start += width
            length = int.from_bytes(data[at + 2 : at + 2 + width])
            if len(data) < at + 2 + width:
                return start, 0
        if len(self._message) + length > self._max_size:
            raise BadFrameError(TOO_BIG, "the message is too big")
        return start, length


class IgnoreInput:
    """Takes the place of the parser once the peer has closed, or has broken the protocol."""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        return iter(())


IGNORE_INPUT: Final = IgnoreInput()


def close_code(payload: bytes) -> int:
    """The code that a close frame names (section 7.4).

    Raises:
        BadFrameError: it is none that may be sent, or its reason is no text.
    """
    if not payload:
        return NO_STATUS
    code = int.from_bytes(payload[:2])
    if len(payload) < 2 or not may_be_sent(code):
        raise BadFrameError(PROTOCOL_ERROR, "no valid close code")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise BadFrameError(INVALID_DATA, "the reason is no UTF-8") from None
    return code
