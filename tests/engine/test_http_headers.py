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


def test_a_response_with_no_headers_gets_all_that_are_safe() -> None:
    assert completed({}) == SAFE
    assert completed({"x-own": "1"}) == SAFE | {"x-own": "1"}


@pytest.mark.parametrize("name", SAFE)
def test_what_the_app_says_is_kept(name: str) -> None:
    assert completed({name: "own"}) == SAFE | {name: "own"}


@pytest.mark.parametrize("name", ["etag", "last-modified"])
def test_a_response_with_a_validator_may_be_stored(name: str) -> None:
    headers = completed({name: "own"})
    assert headers.keys() == (SAFE.keys() | {name}) - {"cache-control"}


def test_only_a_page_is_without_the_strict_policy() -> None:
    for content_type in ("text/html", "text/html; charset=utf-8"):
        assert "content-security-policy" not in completed({"content-type": content_type})
    for content_type in ("text/plain", "application/json", "image/svg+xml"):
        assert "content-security-policy" in completed({"content-type": content_type})


def test_only_http_1_has_connections_that_a_response_can_end() -> None:
    for version, draining in (("1.1", True), ("1.0", True), ("2", True), ("1.1", False)):
        ended = completed({}, draining=draining, http_version=version).get("connection")
        assert ended == ("close" if draining and version != "2" else None)


HOST = [(b"accept", b"evil.invalid"), (b"host", b"bff.invalid:8080")]
REDIRECTS = {
    "to the host of the request": ("http://bff.invalid:8080/a/?b=1", "/a/?b=1"),
    "to the address of the server": ("http://10.0.0.1:9000/a/", "/a/"),
    "to the address without a port": ("http://10.0.0.1/a/", "/a/"),
    "to what looks like a host": ("http://10.0.0.1//evil.invalid/", "/%2Fevil.invalid/"),
    "to another port": ("http://bff.invalid/a/", None),
    "to another scheme": ("https://bff.invalid:8080/a/", None),
    "to another host": ("http://evil.invalid/a/", None),
    "to a path": ("/a/", None),
}


@pytest.mark.parametrize("root", ["", "/apps"])
@pytest.mark.parametrize("what", REDIRECTS)
def test_a_redirect_for_a_slash_stays_where_the_client_is(what: str, root: str) -> None:
    location, expected = REDIRECTS[what]
    options: Any = {
        "scheme": "http",
        "headers": HOST,
        "server": ("10.0.0.1", 9000),
        "root_path": root,
    }
    moved = completed({"location": location}, 307, **options)
    assert moved["location"] == (location if expected is None else root + expected)
    other = completed({"location": location}, 303, **options)
    assert other["location"] == location, "only a redirect for a slash is changed"


def test_a_redirect_has_the_path_of_the_proxy_once() -> None:
    for path, expected in (("/apps/a/", "/apps/a/"), ("/appstore/", "/apps/appstore/")):
        moved = completed(
            {"location": f"http://[::1]:80{path}"},
            307,
            scheme="http",
            server=("::1", 80),
            root_path="/apps",
        )
        assert moved["location"] == expected


def test_a_redirect_without_a_location_and_without_a_server_is_passed_on() -> None:
    assert completed({}, 307) == SAFE
    moved = completed({"location": "http://a/b/"}, 307, scheme="http", headers=HOST, server=None)
    assert moved["location"] == "http://a/b/"


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
def test_everything_else_is_passed_on_as_it_is(kind: str) -> None:
    got: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        got.extend((scope, receive, send))

    async def receive() -> Any: ...
    async def send(_: Any) -> None: ...

    scope = {"type": kind} if kind == "lifespan" else {"type": kind, "path": "/ws\n"}
    asyncio.run(ResponseHeaders(app, lambda: True)(scope, receive, send))
    assert got == [scope, receive, send]
    assert got[0].get("path", "/%0A") == "/%0A", "no route has this path"
