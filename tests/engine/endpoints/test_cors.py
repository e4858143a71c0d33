"""CORS for the origins in `ALLOWED_ORIGINS` (WHATWG Fetch, section 3.2)."""

from __future__ import annotations

import pytest
from bff.testing import RunningBff

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
    assert answer.headers.get(ALLOWED) == (LISTED if origin == LISTED else None)


@pytest.mark.parametrize("origin", [LISTED, FOREIGN])
async def test_pages_of_listed_origins_can_read_the_response(bff: RunningBff, origin: str) -> None:
    async with bff.http() as http:
        answer = await http.post("/auth/ticket", headers={"Origin": origin})
    assert answer.status_code == (200 if origin == LISTED else 403)
    assert answer.headers.get(ALLOWED) == (LISTED if origin == LISTED else None)


async def test_a_refused_origin_is_logged(
    bff: RunningBff, caplog: pytest.LogCaptureFixture
) -> None:
    async with bff.http() as http:
        await http.post("/auth/ticket", headers={"Origin": FOREIGN})
    (record,) = [one for one in caplog.records if "origin refused" in one.getMessage()]
    assert FOREIGN in vars(record)["origin"]
