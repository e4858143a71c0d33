"""The opening handshake: accepted, rejected, and the limits of a request head."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from bff.server import deadlines
from bff.server.handshake import (
    BadHandshakeError,
    accept_key,
    accepted,
    response,
    subprotocols,
)
from bff.testing import RunningBff, until

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
GOOD = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


async def answer(bff: RunningBff, request: bytes, until: bytes = b"\r\n\r\n") -> bytes:
    """The server's response up to `until`, or all of it if the server closes earlier."""
    host, port = bff.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    received = b""
    async with asyncio.timeout(15):
        try:
            received = await reader.readuntil(until)
        except asyncio.IncompleteReadError as ended:
            received = ended.partial
    writer.close()
    return received


def request(line: str = "GET /ws HTTP/1.1", **changes: str | None) -> bytes:
    fields = GOOD | {name.replace("_", "-"): value for name, value in changes.items()}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([line, *lines, "", ""]).encode()


async def test_the_accept_key_is_that_of_the_rfcs_example(bff: RunningBff) -> None:
    """RFC 6455, section 1.3."""
    received = await answer(bff, request())
    assert received.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in received


async def test_another_version_is_rejected_with_the_supported_one(bff: RunningBff) -> None:
    received = await answer(bff, request(Sec_WebSocket_Version="8"))
    assert received.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")
    assert b"sec-websocket-version: 13\r\n" in received


@pytest.mark.parametrize(
    "bad",
    [
        request(Sec_WebSocket_Key=None),
        request(Sec_WebSocket_Key="short"),
        request(Sec_WebSocket_Key="not base64, not at all!!"),
        request(Sec_WebSocket_Key=KEY + "\r\nSec-WebSocket-Key: " + KEY),
        request("POST /ws HTTP/1.1"),
        request("GET /ws HTTP/1.0"),
        request("GET http://[::1 HTTP/1.1"),
        request(Content_Length="5"),
        request(Transfer_Encoding="chunked"),
    ],
)
async def test_an_invalid_handshake_is_rejected(bff: RunningBff, bad: bytes) -> None:
    received = await answer(bff, bad)
    assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")


@pytest.mark.parametrize(
    "good",
    [
        request(Sec_WebSocket_Key=f"{KEY} ", Sec_WebSocket_Version="13\t"),
        request(Content_Length="0"),
    ],
)
async def test_whitespace_around_values_and_an_empty_body_are_allowed(
    bff: RunningBff, good: bytes
) -> None:
    assert (await answer(bff, good)).startswith(b"HTTP/1.1 101 ")


async def test_each_response_has_its_own_date(bff: RunningBff) -> None:
    async def date() -> bytes:
        (line,) = (one for one in (await answer(bff, request())).split(b"\r\n") if b"date" in one)
        return line

    first = await date()

    async def is_later() -> bool:
        return await date() > first

    await until(is_later)


async def test_an_upgrade_during_an_unfinished_response_is_aborted(bff: RunningBff) -> None:
    token = f"Authorization: Bearer {bff.token('alice')}\r\n\r\n"
    host, port = bff.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET /events HTTP/1.1\r\nHost: x\r\n{token}".encode())
    await reader.readuntil(b'"hello"')
    writer.write(request())
    async with asyncio.timeout(15):
        with suppress(ConnectionResetError):
            assert b" 101 " not in await reader.read()
    await until(lambda: not list(bff.engine.handlers))
    writer.close()


async def test_a_client_that_never_completes_a_head_is_disconnected(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlines, "_HEAD_SECONDS", 0.2)
    for start in (b"", b"GET /ws HTTP/1.1\r\nHost:"):
        assert await answer(bff, start) == b""


async def test_a_long_header_is_accepted(bff: RunningBff) -> None:
    received = await answer(bff, request(Cookie="x" * 20_000))
    assert received.startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("start", [request()[:-2], b"GET /health/live HTTP/1.1\r\nHost: x\r\n"])
async def test_an_endless_head_is_rejected(bff: RunningBff, start: bytes) -> None:
    received = await answer(bff, start + b"X-Long: " + b"x" * 600_000)
    assert received.startswith(b"HTTP/1.1 431 ") or received == b"", received[:50]
    assert (await answer(bff, request())).startswith(b"HTTP/1.1 101 ")


async def test_endless_trailers_are_rejected(bff: RunningBff) -> None:
    """The parser buffers them like headers, even after the response is complete."""
    host, port = bff.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head + b"1\r\nx\r\n0\r\n")
    await reader.readuntil(b"HTTP/1.1 404 ")
    sent = 0
    with suppress(ConnectionError):
        while sent < 50_000_000:
            writer.write(b"X-Trailer: " + b"x" * 1000 + b"\r\n")
            await writer.drain()
            sent += 1000
    assert sent < 50_000_000
    writer.close()


async def test_a_body_before_the_next_head_is_not_counted_as_head(bff: RunningBff) -> None:
    first = b"POST /nowhere HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
    second = b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    host, port = bff.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(first + second[:20])
    await reader.readuntil(b"HTTP/1.1 404 ")
    writer.write(second[20:])
    async with asyncio.timeout(15):
        assert b"HTTP/1.1 404 " in await reader.read()
    writer.close()


async def test_a_large_body_is_not_counted_as_head(bff: RunningBff) -> None:
    head = b"POST /auth/ticket HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    assert not (await answer(bff, head + b"x" * 100_000)).startswith(b"HTTP/1.1 431 ")


def test_a_second_key_is_rejected() -> None:
    fields = [(b"sec-websocket-key", KEY.encode()), (b"sec-websocket-version", b"13")]
    assert accept_key("GET", "1.1", fields) == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    with pytest.raises(BadHandshakeError):
        accept_key("GET", "1.1", [*fields, fields[0]])


def test_subprotocols_of_several_headers_are_joined() -> None:
    name = b"sec-websocket-protocol"
    offered = [(name, b"bff.v1, other"), (b"x", b"no"), (name, b"last")]
    assert subprotocols(offered) == ["bff.v1", "other", "last"]


@pytest.mark.parametrize("value", [b"1\r\nset-cookie: evil=1", b"1\nx: y", b"1\r", b"\r\n", b"\0"])
def test_a_header_with_a_line_break_raises(value: bytes) -> None:
    with pytest.raises(ValueError, match="line break"):
        accepted(b"key", [(b"x", value)])
    with pytest.raises(ValueError, match="line break"):
        response(418, [(b"x", value)])


def test_a_rejection_has_a_content_length_and_closes() -> None:
    received = response(418, [(b"Content-length", b"99"), (b"x", b"y")], b"teapot")
    assert received.startswith(b"HTTP/1.1 418 I'm a Teapot\r\nx: y\r\n")
    assert received.endswith(b"\r\ncontent-length: 6\r\nconnection: close\r\n\r\nteapot")
    assert b"\r\nx-content-type-options: nosniff\r\n" in received
    assert received.lower().count(b"content-length") == 1
    own = response(418, [(b"X-Content-Type-Options", b"own")]).lower()
    assert own.count(b"x-content-type-options") == own.count(b"x-content-type-options: own") == 1
    assert response(599).startswith(b"HTTP/1.1 599 \r\n")
