"""Nobody's body is read before the token was checked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from bff.endpoints import CallerDep, JsonRoute
from bff.settings import Settings
from bff.testing import RunningBff, run
from fastapi import APIRouter

from tests.engine.echo import create_app

router = APIRouter(route_class=JsonRoute)


@router.post("/mine")
async def mine(body: dict[str, Any], caller: CallerDep) -> int:
    return len(body)


@router.post("/public")
async def public(body: dict[str, Any]) -> int:
    return len(body)


@pytest.fixture
async def bff(settings: Settings) -> AsyncIterator[RunningBff]:
    async with run(create_app(settings, http=[router])) as running:
        yield running


@pytest.mark.parametrize(
    "path", ["/rpc/echo/say", "/admin/broadcasts", "/mine"], ids=["rpc", "admin", "own"]
)
async def test_the_answer_comes_without_the_body(bff: RunningBff, path: str) -> None:
    reader, writer = await asyncio.open_connection(*bff.address.split(":"))
    lines = (
        f"POST {path} HTTP/1.1",
        f"Host: {bff.address}",
        "Content-Type: application/json",
        "Content-Length: 1000",
        "",
        "{",
    )
    writer.write("\r\n".join(lines).encode())
    status = await asyncio.wait_for(reader.readline(), 15)
    writer.close()
    assert status.startswith(b"HTTP/1.1 401 ")


async def test_the_request_counts_once(bff: RunningBff) -> None:
    async with bff.http() as http:
        assert (await http.post("/mine", json={"a": 1})).json() == 1
        assert (await http.post("/public", json={"a": 1})).json() == 1
    bucket = bff.engine.allowances.hold("alice")
    assert 98.9 < bucket._tokens <= 99.9
