"""Encoding and decoding of frames: JSON text, and the WebSocket frame around it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import orjson

from bff.connections.positions import Position
from bff.errors import Code, Problem

_TEXT: Final = 1
_NO_POSITIONS: Final[Mapping[str, Position]] = MappingProxyType({})


class Frame:
    """An encoded message, made once and shared by every connection that it is sent to."""

    __slots__ = ("_text", "payload", "positions", "retry_ms", "wire")

    def __init__(
        self,
        payload: bytes,
        positions: Mapping[str, Position] = _NO_POSITIONS,
        retry_ms: int | None = None,
    ) -> None:
        self.payload: Final = payload
        """The message in UTF-8."""
        self.positions: Final = positions
        """The positions that a client has reached with this message, by stream."""
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


def decode(data: str | bytes) -> Any:
    """Decode JSON text from a client.

    Raises:
        Problem: `invalid_params` when it is not JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Problem(Code.INVALID_PARAMS, f"Error decoding JSON: {error}") from None


def check_depth(value: Any, max_depth: int) -> None:
    """Limit the nesting of decoded JSON.

    Raises:
        Problem: `invalid_params` when it is deeper than `max_depth`.
    """
    if _deeper_than(value, max_depth):
        raise Problem(Code.INVALID_PARAMS, f"Nested deeper than {max_depth} levels")


def _deeper_than(value: Any, max_depth: int) -> bool:
    level = [value]
    for _ in range(max_depth + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        if not inner:
            return False
        level = inner
    return True
