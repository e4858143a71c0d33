"""Encodes and decodes the few AMQP 0-9-1 frames that mesh calls consist of."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Final

METHOD, HEADER, BODY = 1, 2, 3
"""Frame types (AMQP 0-9-1, section 4.2.3)."""
FRAME: Final = struct.Struct("!BHI")
"""Type, channel and size of the payload. After the payload follows one byte, `END`."""
END: Final = b"\xce"
OVERHEAD: Final = FRAME.size + len(END)
HEARTBEAT: Final = FRAME.pack(8, 0, 0) + END

CLOSE: Final = b"\x00\x0a\x00\x32"
"""The first bytes of the payload of `connection.close`."""
DELIVER: Final = b"\x00\x3c\x00\x3c"
RETURN: Final = b"\x00\x3c\x00\x32"
ACK: Final = b"\x00\x3c\x00\x50"
NACK: Final = b"\x00\x3c\x00\x78"
"""The first bytes of the payloads of `basic.deliver`, `.return`, `.ack` and `.nack`."""

_BASIC: Final = 60
_PUBLISH: Final = b"\x00\x3c\x00\x28\x00\x00"
_CONFIRM: Final = struct.Struct("!4xQB")
_TAG_AND_BITS: Final = 9
"""Bytes of the delivery tag and the bit `redelivered` of a `basic.deliver`."""
_CONTENT_START: Final = struct.Struct("!HHQ")
_CONTENT: Final = struct.Struct("!HHQH")
_SIZE: Final = struct.Struct("!I")
_CONTENT_TYPE: Final = 1 << 15
_ENCODING: Final = 1 << 14
_HEADERS: Final = 1 << 13
_MODE: Final = 1 << 12
_PRIORITY: Final = 1 << 11
_CORRELATION_ID: Final = 1 << 10
_REPLY_TO: Final = 1 << 9
_EXPIRATION: Final = 1 << 8
_MESSAGE_ID: Final = 1 << 7
"""Flags of the properties that follow, in this order (section 4.2.6.1)."""


def publish(
    channel: int,
    frame_max: int,
    *,
    exchange: str,
    routing_key: str,
    mandatory: bool,
    properties: bytes,
    body: bytes,
) -> bytes:
    """All frames of one `basic.publish`. With a `frame_max` of 0 frames have no size limit.

    Raises:
        ValueError: `exchange` or `routing_key` is longer than 255 bytes.
    """
    method = b"".join((_PUBLISH, _short(exchange), _short(routing_key), bytes((mandatory,))))
    header = _CONTENT_START.pack(_BASIC, 0, len(body)) + properties
    frames = [
        *(FRAME.pack(METHOD, channel, len(method)), method, END),
        *(FRAME.pack(HEADER, channel, len(header)), header, END),
    ]
    for part in _parts(body, frame_max - OVERHEAD if frame_max else len(body) or 1):
        frames += FRAME.pack(BODY, channel, len(part)), part, END
    return b"".join(frames)


def properties(
    *,
    content_type: str,
    headers: Mapping[str, str],
    correlation_id: str,
    reply_to: str,
    expiration: str | None,
    message_id: str,
) -> bytes:
    """The encoded properties of a message. An empty `reply_to` or `expiration` is left out.

    Raises:
        ValueError: a property is longer than 255 bytes.
    """
    flags = _CONTENT_TYPE | _HEADERS | _CORRELATION_ID | _MESSAGE_ID
    parts = [b"", _short(content_type), _table(headers), _short(correlation_id)]
    if reply_to:
        flags |= _REPLY_TO
        parts.append(_short(reply_to))
    if expiration:
        flags |= _EXPIRATION
        parts.append(_short(expiration))
    parts.append(_short(message_id))
    parts[0] = flags.to_bytes(2)
    return b"".join(parts)


def read_header(payload: bytes) -> tuple[int, str]:
    """Decode a content header: the size of the body, and the correlation id or an empty string."""
    _, _, size, flags = _CONTENT.unpack_from(payload)
    if not flags & _CORRELATION_ID:
        return size, ""
    at = _CONTENT.size
    for flag in (_CONTENT_TYPE, _ENCODING):
        if flags & flag:
            at += 1 + payload[at]
    if flags & _HEADERS:
        at += _SIZE.size + _SIZE.unpack_from(payload, at)[0]
    at += bool(flags & _MODE) + bool(flags & _PRIORITY)
    return size, payload[at + 1 : at + 1 + payload[at]].decode(errors="replace")


def bare_header(channel: int, frame: bytes) -> bytes:
    """A content header frame without its properties."""
    _, _, size, _ = _CONTENT.unpack_from(frame, FRAME.size)
    return FRAME.pack(HEADER, channel, _CONTENT.size) + _CONTENT.pack(_BASIC, 0, size, 0) + END


def check_names(deliver: bytes) -> None:
    """Check that the exchange and the routing key of a `basic.deliver` frame are UTF-8. RabbitMQ
    accepts any bytes.

    Raises:
        UnicodeDecodeError: one of them is not.
    """
    _, *names = _deliver_names(deliver)
    for name in names:
        name.decode()


def with_utf8_names(channel: int, deliver: bytes) -> bytes:
    """A `basic.deliver` frame with `?` for what is not UTF-8 in its exchange and routing key."""
    before, *names = _deliver_names(deliver)
    # A question mark is one byte, so no name gets longer.
    readable = (name.decode(errors="replace").replace("\ufffd", "?") for name in names)
    payload = b"".join((before, *map(_short, readable)))
    return FRAME.pack(METHOD, channel, len(payload)) + payload + END


def _deliver_names(frame: bytes) -> tuple[bytes, bytes, bytes]:
    """The payload before the exchange, the exchange, and the routing key, which is the last."""
    start = FRAME.size + len(DELIVER)
    start += 1 + frame[start] + _TAG_AND_BITS  # after the consumer's tag
    end = start + 1 + frame[start]
    return frame[FRAME.size : start], frame[start + 1 : end], frame[end + 1 : -len(END)]


def read_confirm(payload: bytes) -> tuple[int, bool]:
    """Decode an `ACK` or `NACK`: the delivery tag, and whether it includes all earlier ones."""
    tag, bits = _CONFIRM.unpack_from(payload)
    return tag, bool(bits & 1)


def read_close(payload: bytes) -> str:
    """The reply text of a `connection.close`."""
    return payload[7 : 7 + payload[6]].decode(errors="replace")


def _parts(body: bytes, max_size: int) -> Iterator[bytes]:
    for start in range(0, len(body), max_size):
        yield body[start : start + max_size]


def _short(text: str) -> bytes:
    data = text.encode()
    return bytes((len(data),)) + data


def _table(values: Mapping[str, str]) -> bytes:
    parts = [b""]
    for name, value in values.items():
        data = value.encode()
        parts += _short(name), b"S", _SIZE.pack(len(data)), data
    table = b"".join(parts)
    return _SIZE.pack(len(table)) + table
