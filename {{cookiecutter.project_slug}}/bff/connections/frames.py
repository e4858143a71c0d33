"""JSON in and out: text of a message, made once and shared by every socket it goes to."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import orjson

from bff.connections.positions import Position
from bff.errors import Code, Problem

_TEXT: Final = 1
_NOWHERE: Final[Mapping[str, Position]] = MappingProxyType({})


class Frame:
    """A finished text message, made once and shared by every socket it goes to."""

    __slots__ = ("_text", "payload", "positions", "retry_ms", "wire")

    def __init__(
        self,
        payload: bytes,
        positions: Mapping[str, Position] = _NOWHERE,
        retry_ms: int | None = None,
    ) -> None:
        self.payload: Final = payload
        """The message in UTF-8."""
        self.positions: Final = positions
        """How far whoever has it has read, of each stream that it says something about."""
        self.retry_ms: Final = retry_ms
        """How long to wait before coming back, if it says so."""
        self.wire: Final = header(_TEXT, len(payload)) + payload
        """The WebSocket frame."""
        self._text: str | None = None

    @property
    def text(self) -> str:
        """The same as `str`, decoded once however many sockets ask for it."""
        if self._text is None:
            self._text = self.payload.decode()
        return self._text


def header(opcode: int, length: int) -> bytes:
    """What stands before the payload of an unfragmented, unmasked frame (RFC 6455, section 5.2)."""
    first = 0x80 | opcode
    if length < 126:
        return struct.pack("!BB", first, length)
    if length < 1 << 16:
        return struct.pack("!BBH", first, 126, length)
    return struct.pack("!BBQ", first, 127, length)


def encode(value: Any) -> bytes:
    """JSON of any value that JSON has; what it refuses (NaN) becomes null.

    Raises:
        TypeError: the value holds something that is no JSON, or an integer beyond 64 bits.
    """
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)


def decode(data: str | bytes) -> Any:
    """What a client sent.

    Raises:
        Problem: `invalid_params` when it is not JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Problem(Code.INVALID_PARAMS, f"Error decoding JSON: {error}") from None


def check_depth(value: Any, max_depth: int) -> None:
    """Bound the nesting of decoded JSON.

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
