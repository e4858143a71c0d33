"""Headers of every response, redirects, `/docs`, and a proxy that serves the BFF under a path."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import httpx2
import pytest
from bff.settings import Settings
from bff.testing import RunningBff, run
from fastapi import APIRouter, FastAPI, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from tests.engine.echo import create_app

LISTED = "http://localhost:8000"
router = APIRouter()


@router.get("/own/html")
def html() -> HTMLResponse:
    return HTMLResponse("<p>mine</p>")


@router.get("/own/cached")
def cached(response: Response) -> dict[str, str]:
    response.headers["Cache-Control"] = "public, max-age=60"
    return {}


@router.get("/own/elsewhere")
def elsewhere() -> RedirectResponse:
    return RedirectResponse("https://id.invalid/sign-in?x=1")


@router.get("/own/bug")
def bug() -> None:
    raise RuntimeError("a bug")


@router.get("/own/slash/")
def slash() -> str:
    return "slash"


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings, http=[router])


@pytest.fixture
async def bff(app: FastAPI) -> AsyncIterator[RunningBff]:
    async with run(app) as running:
        yield running


RESPONSES = (
    ("GET", "/health/live", 200),
    ("GET", "/metrics", 200),
    ("POST", "/auth/ticket", 200),
    ("POST", "/rpc/echo/say", 200),
    ("POST", "/rpc/echo/nothing", 404),
    ("GET", "/rpc/echo/say", 405),
    ("GET", "/nowhere", 404),
    ("GET", "/admin/stats", 403),
    ("GET", "/openapi.json", 200),
    ("GET", "/asyncapi.json", 200),
    ("GET", "/own/slash", 307),
    ("GET", "/own/bug", 500),
    ("OPTIONS", "/own/slash/", 405),
)


@pytest.mark.parametrize(("method", "path", "status"), RESPONSES)
async def test_no_response_can_be_stored_sniffed_or_run(
    bff: RunningBff, method: str, path: str, status: int
) -> None:
    async with bff.http() as http:
        answer = await http.request(method, path)
    assert answer.status_code == status
    assert answer.headers.get_list("cache-control") == ["no-store"]
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert answer.headers.get_list("referrer-policy") == ["no-referrer"]
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


async def test_a_response_ends_its_connection_while_the_instance_drains(bff: RunningBff) -> None:
    async with bff.http() as http:
        for draining in (False, True):
            bff.engine.draining.begun = draining
            for method, path, status in RESPONSES:
                answer = await http.request(method, path)
                assert answer.status_code == status
                assert ("close" in answer.headers.get_list("connection")) == draining, path


CLOSED = {
    "no HTTP": (b"no HTTP\r\n\r\n", 400),
    "a head that is too large": (b"GET / HTTP/1.1\r\nX: " + b"x" * 150_000, 431),
    "a handshake without a key": (
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        400,
    ),
    "a body that is too large": (
        b"POST /rpc/echo/say HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n",
        413,
    ),
}


@pytest.mark.parametrize(("request_", "status"), CLOSED.values(), ids=CLOSED)
async def test_the_same_holds_where_the_server_answers(
    bff: RunningBff, request_: bytes, status: int
) -> None:
    head = await answer_to(bff, request_)
    assert head.startswith(b"HTTP/1.1 %d " % status)
    for line in (
        b"cache-control: no-store",
        b"x-content-type-options: nosniff",
        b"referrer-policy: no-referrer",
        b"content-security-policy: default-src 'none'",
    ):
        assert head.lower().count(b"\r\n" + line) == 1, line


async def test_the_same_holds_beyond_the_limit_of_connections(settings: Settings) -> None:
    limited = settings.model_copy(update={"max_connections": 1})
    async with run(create_app(limited)) as bff:
        first = await asyncio.open_connection(*bff.address.split(":"))
        head = await answer_to(bff, b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
        first[1].close()
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\ncache-control: no-store\r\n" in head.lower()
    assert b"\r\nx-content-type-options: nosniff\r\n" in head.lower()


async def answer_to(bff: RunningBff, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*bff.address.split(":"))
    writer.write(request)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 15)
    writer.close()
    return head


async def test_what_a_route_sets_is_kept(bff: RunningBff) -> None:
    async with bff.http() as http:
        page, stored = await http.get("/own/html"), await http.get("/own/cached")
        moved = await http.get("/own/elsewhere")
    assert "content-security-policy" not in page.headers
    assert page.headers["x-content-type-options"] == "nosniff"
    assert stored.headers["cache-control"] == "public, max-age=60"
    assert moved.headers["location"] == "https://id.invalid/sign-in?x=1"


@pytest.mark.parametrize("host", ["evil.invalid", "evil.invalid:81", "user@evil.invalid", "a/b"])
async def test_the_redirect_for_a_slash_names_no_host(bff: RunningBff, host: str) -> None:
    async with bff.http() as http:
        answer = await http.get("/own/slash?a=1", headers={"Host": host})
    assert answer.status_code == 307
    assert answer.headers["location"] == "/own/slash/?a=1"


@pytest.mark.parametrize("path", ["/health/live%0A", "/ws%0A", "/own/slash/%0A", "/%0A"])
async def test_a_path_that_ends_in_a_newline_does_not_match(bff: RunningBff, path: str) -> None:
    async with bff.http() as http:
        assert (await http.get(path)).status_code == 404


async def test_the_page_of_the_api_loads_nothing_from_elsewhere(bff: RunningBff) -> None:
    async with bff.http() as http:
        page = await http.get("/docs")
        loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        for address in loaded:
            assert address.startswith("/docs/")
            assert (await http.get(address)).status_code == 200
        assert len(loaded) == 3
        assert (await http.get("/redoc")).status_code == 404
    policy = page.headers["content-security-policy"]
    script = policy.partition("script-src ")[2].partition(";")[0]
    assert re.fullmatch(r"'self' 'sha256-[^' ]+'", script)
    assert "http" not in policy


@pytest.mark.parametrize("setting", [None, True, False])
async def test_production_describes_its_api_only_if_told_to(
    settings: Settings, setting: bool | None
) -> None:
    changed = settings.model_copy(update={"environment": "production", "api_docs": setting})
    app = create_app(changed)
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as http:
        served = ("/docs", "/openapi.json", "/asyncapi.json")
        for path in (*served, "/docs/oauth2-redirect", "/redoc"):
            is_there = setting is True and path in served
            assert (await http.get(path)).status_code == (200 if is_there else 404), path
    assert app.openapi()["paths"]


@pytest.mark.parametrize("prefix", ["/apps/bff", ""], ids=["kept", "removed"])
async def test_a_proxy_may_remove_the_path_or_not(settings: Settings, prefix: str) -> None:
    """`prefix` is what the proxy leaves of the path in the requests that it passes on."""
    app = create_app(settings.model_copy(update={"root_path": "/apps/bff"}), http=[router])
    async with run(app) as bff:
        async with bff.http(scopes=["admin"]) as http:
            assert (await http.get(f"{prefix}/health/live")).status_code == 200
            document = (await http.get(f"{prefix}/openapi.json")).json()
            assert document["servers"] == [{"url": "/apps/bff"}]
            page = (await http.get(f"{prefix}/docs")).text
            assert "'/apps/bff/openapi.json'" in page
            assert 'src="/apps/bff/docs/' in page
            moved = await http.get(f"{prefix}/own/slash")
            assert moved.headers["location"] == "/apps/bff/own/slash/"
            sent = {"audience": "all", "topic": "news", "event": {}}
            stored = await http.post(f"{prefix}/admin/broadcasts", json=sent)
            where = f"/apps/bff/admin/broadcasts/{stored.json()['id']}"
            assert stored.headers["location"] == where
        headers = {"Authorization": f"Bearer {bff.token('alice')}"}
        async with bff.handshake("", headers, path=f"{prefix}/ws") as browser:
            assert (await browser.receive())["payload"]["topic"] == "hello"


async def test_a_foreign_origin_is_refused_before_anything_else(bff: RunningBff) -> None:
    reader, writer = await asyncio.open_connection(*bff.address.split(":"))
    writer.write(
        b"GET /ws?since=junk HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        b"Origin: http://evil.invalid\r\n\r\n"
    )
    assert b" 403 " in await asyncio.wait_for(reader.readline(), 15)
    writer.close()


async def test_two_cookies_of_the_name_are_refused(bff: RunningBff) -> None:
    good = f"Authorization={bff.token('alice')}"
    other = f"Authorization={bff.token('mallory')}"
    async with httpx2.AsyncClient(base_url=f"http://{bff.address}") as http:
        for cookies, status in (
            (good, 200),
            (f"a=1; {good}; b=Authorization", 200),
            (f"{good}; {other}", 401),
            (f"{other};{good}", 401),
            (f"{good}; {good}", 401),
            (f"Authorization=; {good}", 401),
        ):
            headers = {"Cookie": cookies, "Origin": LISTED}
            answer = await http.post("/auth/ticket", headers=headers)
            assert answer.status_code == status, cookies


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("bff.invalid:8443", 200),
        ("evil.invalid", 403),
        ("localhost.evil.invalid", 403),
        ("127.0.0.1.evil.invalid", 403),
        ("localhost@evil.invalid", 403),
        ("10.0.0.1:8000", 403),
    ],
)
async def test_tokens_of_the_development_page_are_for_known_hosts(
    settings: Settings, host: str, status: int
) -> None:
    changes = {"environment": "development", "allowed_origins": ("https://bff.invalid:8443",)}
    app = create_app(settings.model_copy(update=changes))
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as http:
        answer = await http.post("/dev/token", json={"user": "a"}, headers={"Host": host})
    assert answer.status_code == status
