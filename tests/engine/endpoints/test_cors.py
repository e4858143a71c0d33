"""CORS for the origins in `ALLOWED_ORIGINS` (WHATWG Fetch, section 3.2)."""

from __future__ import annotations

import pytest
from bff.settings import Settings
from bff.testing import RunningBff, run
from fastapi import APIRouter

from tests.engine.echo import create_app

LISTED, FOREIGN = "http://localhost:8000", "http://evil"
ALLOWED = "access-control-allow-origin"


@pytest.mark.parametrize("path", ["/auth/ticket", "/rpc/echo/say", "/events"])
@pytest.mark.parametrize("origin", [LISTED, FOREIGN])
async def test_preflight_requests(bff: RunningBff, path: str, origin: str) -> None:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type, last-event-id",
    }
    async with bff.http() as http:
        answer = await http.options(path, headers=headers)
    assert answer.is_success is (origin == LISTED)
    assert answer.headers.get("access-control-allow-credentials") == "true", "for the cookie"
    assert answer.headers.get(ALLOWED) == (LISTED if origin == LISTED else None)


@pytest.mark.parametrize("origin", [LISTED, FOREIGN])
async def test_pages_of_listed_origins_can_read_the_response(bff: RunningBff, origin: str) -> None:
    async with bff.http() as http:
        answer = await http.post("/auth/ticket", headers={"Origin": origin})
    assert answer.status_code == (200 if origin == LISTED else 403)
    assert answer.headers.get(ALLOWED) == (LISTED if origin == LISTED else None)


@pytest.mark.parametrize("origin", [LISTED, FOREIGN])
async def test_so_can_they_where_the_app_was_not_asked(settings: Settings, origin: str) -> None:
    """FastAPI and Starlette answer 413 and 500 outside of all middleware."""
    router = APIRouter()

    @router.get("/bug")
    def bug() -> None:
        raise RuntimeError("a bug")

    async with run(create_app(settings, http=[router])) as bff, bff.http() as http:
        headers = {"Origin": origin}
        body = bytes(settings.max_body_bytes + 1)
        large = await http.post("/rpc/echo/say", content=body, headers=headers)
        broken = await http.get("/bug", headers=headers)
    assert (large.status_code, broken.status_code) == (413, 500)
    for answer in (large, broken):
        assert answer.headers.get(ALLOWED) == (LISTED if origin == LISTED else None)


async def test_a_refused_origin_is_logged(
    bff: RunningBff, caplog: pytest.LogCaptureFixture
) -> None:
    async with bff.http() as http:
        await http.post("/auth/ticket", headers={"Origin": FOREIGN})
    (record,) = [one for one in caplog.records if "origin refused" in one.getMessage()]
    assert FOREIGN in vars(record)["origin"]
