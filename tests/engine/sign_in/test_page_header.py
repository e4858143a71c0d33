"""What pages of other origins can send with a user's cookie is refused, on every kind of route."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from bff.endpoints import CallerDep
from bff.testing import RunningBff
from fastapi import APIRouter
from websockets.exceptions import InvalidStatus

from tests.engine.sign_in.conftest import Embedded, Page, Provider, Start

mine = APIRouter(prefix="/mine")


@mine.get("")
async def read(caller: CallerDep) -> str:
    return caller.user_id


@mine.post("")
async def write(caller: CallerDep) -> str:
    return caller.user_id


ROUTES = {
    "yours, reading": ("GET", "/mine"),
    "yours, writing": ("POST", "/mine"),
    "methods": ("POST", "/rpc/echo/say"),
    "admin, reading": ("GET", "/admin/stats"),
    "admin, writing": ("DELETE", "/admin/users/bob/connections"),
    "ticket": ("POST", "/auth/ticket"),
    "me": ("GET", "/auth/me"),
    "sessions": ("GET", "/auth/sessions"),
    "end of a session": ("DELETE", "/auth/sessions/x"),
    "sign-out": ("POST", "/auth/logout"),
}
"""Every kind of route that takes a caller, and one of its routes."""
OPEN = ("/health", "/dev", "/auth/login", "/auth/backchannel-logout")
"""Paths that take no caller."""
NAVIGATION = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


@pytest.fixture
def provider() -> Provider:
    return Embedded()


@pytest.fixture
async def signing_bff(start: Start) -> AsyncIterator[RunningBff]:
    async with start(mine) as running:
        yield running


@pytest.fixture
async def page(page: Page) -> Page:
    """The browser of an administrator."""
    await page.sign_in("admin")
    return page


async def test_a_request_without_the_header_is_refused(page: Page) -> None:
    for kind, (method, path) in ROUTES.items():
        for value in (None, "", "0", "true"):
            headers = {"Origin": page.origin} | ({} if value is None else {"X-BFF": value})
            response = await page.http.request(method, path, headers=headers)
            assert (response.status_code, response.json()["code"]) == (403, "forbidden"), kind


async def test_a_request_that_writes_needs_an_origin_of_ours(page: Page) -> None:
    for kind, (method, path) in ROUTES.items():
        for origin in (None, "http://evil.example", "null") if method != "GET" else ():
            headers = {"X-BFF": "1"} | ({} if origin is None else {"Origin": origin})
            response = await page.http.request(method, path, headers=headers)
            assert response.status_code == 403, (kind, origin)


async def test_with_header_and_origin_it_is_accepted(page: Page) -> None:
    for kind, (method, path) in ROUTES.items():  # the sign-out is the last one
        response = await page.fetch(method, path)
        assert response.status_code in (200, 202, 404), kind


async def test_no_route_was_forgotten(page: Page) -> None:
    """Every route of the app that takes a caller refuses the cookie without the header."""
    tried = 0
    for path, operations in page.bff.app.openapi()["paths"].items():
        if path.startswith(OPEN):
            continue
        for method in operations:
            headers = {"Origin": page.origin} if path != "/events" else {}
            response = await page.http.request(method, _example(path), headers=headers)
            assert response.status_code == 403, (method, path)
            tried += 1
    assert tried > len(ROUTES)


async def test_a_plain_navigation_reads_without_the_header(page: Page) -> None:
    assert (await page.http.get("/mine", headers=NAVIGATION)).status_code == 200
    for other in ({"Sec-Fetch-Dest": "iframe"}, {"Sec-Fetch-Mode": "no-cors"}):
        headers = NAVIGATION | other
        assert (await page.http.get("/mine", headers=headers)).status_code == 403
    posted = NAVIGATION | {"Origin": page.origin}
    assert (await page.http.post("/mine", headers=posted)).status_code == 403


async def test_a_token_needs_no_header(page: Page) -> None:
    async with page.bff.http("bob") as http:
        assert (await http.post("/mine")).status_code == 200


async def test_a_socket_goes_by_its_origin(page: Page) -> None:
    async with page.socket() as browser:
        await browser.receive()
    for origin in (None, "http://evil.example"):
        headers = {"Cookie": f"bff={page.cookie}"} | ({} if origin is None else {"Origin": origin})
        with pytest.raises(InvalidStatus) as refused:
            async with page.bff.handshake("", headers):
                pass
        assert refused.value.response.status_code == 403


async def test_an_event_stream_goes_by_origin_or_by_what_the_browser_says(page: Page) -> None:
    cookie = {"Cookie": f"bff={page.cookie}"}
    for headers in ({"Origin": page.origin}, {"Sec-Fetch-Site": "same-origin"}):
        async with page.bff.event_stream(cookie | headers) as source:
            assert source.response.status_code == 200
    for headers in ({}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "http://evil.example"}):
        async with page.bff.event_stream(cookie | headers) as source:
            assert source.response.status_code == 403


async def test_two_cookies_of_the_name_are_refused(page: Page) -> None:
    cookies = f"bff={page.cookie}; bff=other"
    async with page.bff.http() as http:
        del http.headers["Authorization"]
        response = await http.get("/mine", headers={"X-BFF": "1", "Cookie": cookies})
        assert response.status_code == 401
        single = await http.get("/mine", headers={"X-BFF": "1", "Cookie": f"bff={page.cookie}"})
        assert single.status_code == 200


def _example(path: str) -> str:
    while "{" in path:
        before, _, rest = path.partition("{")
        path = f"{before}x{rest.partition('}')[2]}"
    return path
