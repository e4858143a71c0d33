"""The opening handshake (RFC 6455, section 4.2), from a request that the HTTP parser has read."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Final

import httptools

from bff.http_headers import SAFE_RAW

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case, as in ASGI."""

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_VERSION: Final = b"13"
_KEY_BYTES: Final = 16
_SWITCHING_PROTOCOLS: Final = (
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
)
_EMPTY: Final[tuple[list[bytes], ...]] = ([], [b"0"])
"""Allowed content lengths: the bytes of a body would be parsed as frames."""


class BadHandshakeError(Exception):
    """The upgrade request is invalid; `response` is the HTTP response to send."""

    def __init__(self, status: HTTPStatus, headers: Headers = ()) -> None:
        super().__init__(status.phrase)
        self.response: Final = response(status, headers)


def accept_key(method: str, http_version: str, headers: Headers) -> bytes:
    """Check an upgrade request and return the value of `Sec-WebSocket-Accept`.

    Raises:
        BadHandshakeError: it is not a valid handshake (400), or of another version (426).
    """
    keys = _values(headers, b"sec-websocket-key")
    if method != "GET" or http_version != "1.1" or len(keys) != 1 or not _is_key(keys[0]):
        raise BadHandshakeError(HTTPStatus.BAD_REQUEST)
    if _values(headers, b"transfer-encoding") or _values(headers, b"content-length") not in _EMPTY:
        raise BadHandshakeError(HTTPStatus.BAD_REQUEST)
    if _values(headers, b"sec-websocket-version") != [_VERSION]:
        supported = [(b"sec-websocket-version", _VERSION), (b"upgrade", b"websocket")]
        raise BadHandshakeError(HTTPStatus.UPGRADE_REQUIRED, supported)
    return base64.b64encode(hashlib.sha1(keys[0] + _GUID, usedforsecurity=False).digest())


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value.strip(b" \t") for header, value in headers if header == name]


def _is_key(value: bytes) -> bool:
    try:
        return len(binascii.a2b_base64(value, strict_mode=True)) == _KEY_BYTES
    except binascii.Error:
        return False


def target(url: bytes) -> tuple[bytes, bytes]:
    """Path and query of the request target.

    Raises:
        BadHandshakeError: the target is not a URL.
    """
    try:
        parsed = httptools.parse_url(url)
    except httptools.HttpParserInvalidURLError:
        raise BadHandshakeError(HTTPStatus.BAD_REQUEST) from None
    return parsed.path or b"/", parsed.query or b""


def subprotocols(headers: Headers) -> list[str]:
    """The subprotocols that the client offers, in order of preference."""
    offers = (value for name, value in headers if name == b"sec-websocket-protocol")
    return [one.strip() for offer in offers for one in offer.decode("latin-1").split(",")]


def accepted(key: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The 101 response that accepts a handshake; `key` is the result of `accept_key`.

    Raises:
        ValueError: a header contains a line break or NUL.
    """
    return _SWITCHING_PROTOCOLS + _lines([(b"sec-websocket-accept", key), *headers])


def response(status: int, headers: Iterable[tuple[bytes, bytes]] = (), body: bytes = b"") -> bytes:
    """An HTTP response of the server itself, with safe headers and `Connection: close`.

    Raises:
        ValueError: a header contains a line break or NUL.
    """
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    fields = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    given = {name.lower() for name, _ in fields}
    fields += [header for header in SAFE_RAW if header[0] not in given]
    fields += [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    return b"HTTP/1.1 %d %s\r\n" % (status, phrase.encode()) + _lines(fields) + body


def _lines(headers: Headers) -> bytes:
    """The header lines, with the empty line that ends them."""
    pieces = [piece for name, value in headers for piece in (name, b": ", value, b"\r\n")]
    lines = b"".join((*pieces, b"\r\n"))
    if not lines.count(b"\r") == lines.count(b"\n") == len(headers) + 1 or b"\0" in lines:
        raise ValueError("a header contains a line break or NUL")
    return lines
