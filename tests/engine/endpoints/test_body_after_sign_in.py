"""No body is read before the token and the scopes were checked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from bff import RealtimeRouter
from bff.endpoints import AdminDep, CallerDep, JsonRoute, requires
from bff.settings import Settings
from bff.testing import RunningBff, run
from fastapi import APIRouter, Depends

from tests.engine.echo import create_app

router = APIRouter(route_class=JsonRoute)
realtime = RealtimeRouter()
realtime.expose("guarded", methods=["change"], scopes=["write"])


@router.post("/mine")
async def mine(body: dict[str, Any], caller: CallerDep) -> int:
    return len(body)


@router.post("/scoped", dependencies=[Depends(requires("write"))])
async def scoped(body: dict[str, Any]) -> int:
    return len(body)


@router.post("/scoped/caller")
async def scoped_caller(body: dict[str, Any], caller: AdminDep) -> int:
    return len(body)


@router.post("/public")
async def public(body: dict[str, Any]) -> int:
    return len(body)


@pytest.fixture
async def bff(settings: Settings) -> AsyncIterator[RunningBff]:
    async with run(create_app(settings, realtime, http=[router])) as running:
        yield running


@pytest.mark.parametrize(
    "path", ["/rpc/echo/say", "/admin/broadcasts", "/mine"], ids=["rpc", "admin", "own"]
)
async def test_the_answer_comes_without_the_body(bff: RunningBff, path: str) -> None:
    assert await status_without_body(bff, path) == 401


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/admin/broadcasts", 403),
        ("/scoped", 403),
        ("/scoped/caller", 403),
        ("/rpc/guarded/change", 403),
        ("/rpc/echo/secret", 404),
    ],
)
async def test_scopes_are_checked_without_the_body(bff: RunningBff, path: str, status: int) -> None:
    assert await status_without_body(bff, path, bff.token("alice", ["read"])) == status


async def status_without_body(bff: RunningBff, path: str, token: str = "") -> int:
    """The answer to a request whose body does not come."""
    reader, writer = await asyncio.open_connection(*bff.address.split(":"))
    lines = (
        f"POST {path} HTTP/1.1",
        f"Host: {bff.address}",
        f"Authorization: {token}",
        "Content-Type: application/json",
        "Content-Length: 1000",
        "",
        "{",
    )
    writer.write("\r\n".join(lines).encode())
    line = await asyncio.wait_for(reader.readline(), 15)
    writer.close()
    return int(line.split()[1])


async def test_the_request_counts_once(bff: RunningBff) -> None:
    async with bff.http() as http:
        assert (await http.post("/mine", json={"a": 1})).json() == 1
        assert (await http.post("/public", json={"a": 1})).json() == 1
    bucket = bff.engine.allowances.hold("alice")
    assert 98.9 < bucket._tokens <= 99.9
