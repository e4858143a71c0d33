"""The opening handshake (RFC 6455, section 4.2) of a request that the HTTP parser has read."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Final

Headers = Sequence[tuple[bytes, bytes]]
"""With names in lower case, as ASGI has them."""

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_VERSION: Final = b"13"
_KEY_BYTES: Final = 16


class BadHandshakeError(Exception):
    """A request for an upgrade that cannot be granted; holds the response that says so."""

    def __init__(self, status: HTTPStatus, headers: Headers = ()) -> None:
        super().__init__(status.phrase)
        self.response: Final = response(status, headers)


def accept_key(method: str, http_version: str, headers: Headers) -> bytes:
    """What `Sec-WebSocket-Accept` is to say: proof that the handshake was understood.

    Raises:
        BadHandshakeError: it is no handshake, or one of another version.
    """
    keys = [value for name, value in headers if name == b"sec-websocket-key"]
    versions = [value for name, value in headers if name == b"sec-websocket-version"]
    if method != "GET" or http_version != "1.1" or len(keys) != 1 or not _is_key(keys[0]):
        raise BadHandshakeError(HTTPStatus.BAD_REQUEST)
    if versions != [_VERSION]:
        known = [(b"sec-websocket-version", _VERSION), (b"upgrade", b"websocket")]
        raise BadHandshakeError(HTTPStatus.UPGRADE_REQUIRED, known)
    return base64.b64encode(hashlib.sha1(keys[0] + _GUID, usedforsecurity=False).digest())


def _is_key(value: bytes) -> bool:
    try:
        return len(binascii.a2b_base64(value, strict_mode=True)) == _KEY_BYTES
    except binascii.Error:
        return False


def subprotocols(headers: Headers) -> list[str]:
    """What the client offers to speak, most wanted first."""
    offers = (value for name, value in headers if name == b"sec-websocket-protocol")
    return [one.strip() for offer in offers for one in offer.decode("latin-1").split(",")]


def accepted(key: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The response after which both sides speak WebSocket; `key` is that of `accept_key`."""
    return b"".join(
        (
            b"HTTP/1.1 101 Switching Protocols\r\n"
            b"upgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: ",
            key,
            b"\r\n",
            *(piece for name, value in headers for piece in (name, b": ", value, b"\r\n")),
            b"\r\n",
        )
    )


def response(status: int, headers: Iterable[tuple[bytes, bytes]] = (), body: bytes = b"") -> bytes:
    """A response that grants no upgrade, after which the connection is closed."""
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    fields = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    fields += [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]
    return b"".join(
        (
            b"HTTP/1.1 %d %s\r\n" % (status, phrase.encode()),
            *(piece for name, value in fields for piece in (name, b": ", value, b"\r\n")),
            b"\r\n",
            body,
        )
    )
