"""Encoding of frames: JSON text, and the WebSocket frame around it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import orjson

from bff.connections.positions import Position

_TEXT: Final = 1
_NO_POSITIONS: Final[Mapping[str, Position]] = MappingProxyType({})


class Frame:
    """An encoded message, made once and shared by every connection that it is sent to."""

    __slots__ = ("_text", "cursor", "payload", "retry_ms", "wire")

    def __init__(
        self,
        payload: bytes,
        cursor: Mapping[str, Position] = _NO_POSITIONS,
        retry_ms: int | None = None,
    ) -> None:
        self.payload: Final = payload
        """The message in UTF-8."""
        self.cursor: Final = cursor
        """By stream, the position that a client has reached with this message. An event stream
        sends it as `id`; a WebSocket does not send it."""
        self.retry_ms: Final = retry_ms
        """For an event stream: the delay before the client reconnects."""
        self.wire: Final = header(_TEXT, len(payload)) + payload
        """The complete WebSocket frame."""
        self._text: str | None = None

    @property
    def text(self) -> str:
        """The message as `str`. Decoded once for all connections."""
        if self._text is None:
            self._text = self.payload.decode()
        return self._text


def header(opcode: int, length: int) -> bytes:
    """The header of an unfragmented, unmasked frame (RFC 6455, section 5.2)."""
    first = 0x80 | opcode
    if length < 126:
        return struct.pack("!BB", first, length)
    if length < 1 << 16:
        return struct.pack("!BBH", first, 126, length)
    return struct.pack("!BBQ", first, 127, length)


def encode(value: Any) -> bytes:
    """Encode a value as JSON. NaN and infinity become null.

    Raises:
        TypeError: part of the value has no JSON type, or is an integer beyond 64 bits.
    """
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
