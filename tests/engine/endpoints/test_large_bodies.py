"""A body that is too large is refused in the format of all other errors."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from bff.settings import Settings
from bff.testing import RunningBff


@pytest.mark.parametrize("path", ["/rpc/echo/say", "/admin/broadcasts"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_that_is_too_large_is_a_problem(
    bff: RunningBff, settings: Settings, path: str, chunked: bool
) -> None:
    body = bytes(settings.max_body_bytes + 1)

    async def chunks() -> AsyncIterator[bytes]:
        yield body

    async with bff.http("admin", ["admin"]) as http:
        headers = {"content-type": "application/json"}
        answer = await http.post(path, content=chunks() if chunked else body, headers=headers)
        assert (await http.get("/health/live")).status_code == 200
    assert answer.status_code == answer.json()["status"] == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:problem:too_large"
    assert answer.json()["code"] == "too_large"
    assert answer.json()["outcome"] == "not_sent"


async def test_the_largest_body_is_accepted(bff: RunningBff, settings: Settings) -> None:
    text = "x" * (settings.max_body_bytes - len('{"text":""}'))
    async with bff.http() as http:
        headers = {"content-type": "application/json"}
        answer = await http.post("/rpc/echo/say", content=f'{{"text":"{text}"}}', headers=headers)
    assert answer.status_code != 413
