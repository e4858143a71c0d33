"""What is added to a response, and what becomes of a redirect, whatever app made it.

`endpoints/test_headers.py` has the responses of the BFF on a real server.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bff.http_headers import ResponseHeaders

Headers = list[tuple[bytes, bytes]]
SAFE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


def completed(
    given: dict[str, str], status: int = 200, /, *, draining: bool = False, **scope: Any
) -> dict[str, str]:
    """The headers of the response that an app begins with these."""
    sent: list[Headers] = []

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        raw = [(name.encode(), value.encode()) for name, value in given.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        sent.append(message.get("headers", []))

    full: Any = {"type": "http", "http_version": "1.1", "path": "/", "headers": []} | scope
    asyncio.run(ResponseHeaders(app, lambda: draining)(full, None, send))  # type: ignore[arg-type]
    start, body = sent
    assert body == []
    assert len({name for name, _ in start}) == len(start), "each header once"
    return {name.decode(): value.decode() for name, value in start}


def test_headers_that_are_safe_are_added_where_the_app_does_not_say_otherwise() -> None:
    assert completed({}) == SAFE
    assert completed({"x-own": "1"}) == SAFE | {"x-own": "1"}
    for name in SAFE:
        assert completed({name: "own"}) == SAFE | {name: "own"}
    for validator in ("etag", "last-modified"):
        assert completed({validator: "own"}).keys() == (SAFE.keys() | {validator}) - {
            "cache-control"
        }
    for content_type in ("text/html", "text/html; charset=utf-8", "text/plain", "image/svg+xml"):
        policy = completed({"content-type": content_type}).get("content-security-policy")
        assert (policy is None) is content_type.startswith("text/html")


HOST = [(b"accept", b"evil.invalid"), (b"host", b"bff.invalid:8080")]
REDIRECTS = {
    "to the host of the request": ("http://bff.invalid:8080/a/?b=1", "/a/?b=1"),
    "to the address of the server": ("http://10.0.0.1:9000/a/", "/a/"),
    "to the address without a port": ("http://10.0.0.1/a/", "/a/"),
    "to what looks like a host": ("http://10.0.0.1//evil.invalid/", "/%2Fevil.invalid/"),
    "to an address of IPv6": ("http://[::1]:9000/a/", "/a/"),
    "to another port": ("http://bff.invalid/a/", None),
    "to another scheme": ("https://bff.invalid:8080/a/", None),
    "to another host": ("http://evil.invalid/a/", None),
    "to a path": ("/a/", None),
}


@pytest.mark.parametrize("root", ["", "/apps"])
@pytest.mark.parametrize("what", REDIRECTS)
def test_a_redirect_for_a_slash_stays_where_the_client_is(what: str, root: str) -> None:
    location, expected = REDIRECTS[what]
    server = ("::1" if "IPv6" in what else "10.0.0.1", 9000)
    options: Any = {"scheme": "http", "headers": HOST, "server": server, "root_path": root}
    moved = completed({"location": location}, 307, **options)
    assert moved["location"] == (location if expected is None else root + expected)
    other = completed({"location": location}, 303, **options)
    assert other["location"] == location, "only a redirect for a slash is changed"
    unknown = completed({"location": location}, 307, **options | {"headers": [], "server": None})
    assert unknown["location"] == location
    assert completed({}, 307, **options) == SAFE
    if expected is not None and root:
        for path, once in (("/apps/a/", "/apps/a/"), ("/appstore/", "/apps/appstore/")):
            moved = completed({"location": f"http://bff.invalid:8080{path}"}, 307, **options)
            assert moved["location"] == once


def test_only_http_1_has_connections_that_end_and_only_http_has_headers() -> None:
    for version, draining in (("1.1", True), ("1.0", True), ("2", True), ("1.1", False)):
        ended = completed({}, draining=draining, http_version=version).get("connection")
        assert ended == ("close" if draining and version != "2" else None)
    got: list[Any] = []

    async def app(*given: Any) -> None:
        got.append(given)

    async def receive() -> Any: ...
    async def send(_: Any) -> None: ...

    middleware: Any = ResponseHeaders(app, lambda: True)
    lifespan, socket = {"type": "lifespan"}, {"type": "websocket", "path": "/ws\n"}
    for scope in (lifespan, socket):
        asyncio.run(middleware(scope, receive, send))
    assert got == [(lifespan, receive, send), (socket, receive, send)]
    assert socket["path"] == "/%0A", "no route has this path"
