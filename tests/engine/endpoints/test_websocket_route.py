"""`/ws` is a FastAPI route: dependencies and middleware work on `bff serve` and other servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Annotated, Any

import pytest
from bff import Bff, Caller, Code, Problem, RealtimeRouter
from bff.endpoints import BffDep, CallerDep, provided, requires, serve_websocket
from bff.settings import Settings
from bff.testing import RunningBff, run, until
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, WebSocket
from starlette.types import ASGIApp, Receive, Scope, Send
from websockets.exceptions import InvalidStatus

TENANTS = {"acme", "initech"}
tenant_of_handshake: ContextVar[str] = ContextVar("tenant", default="")
opened: list[str] = []
ended: list[str] = []


async def tenant(x_tenant: Annotated[str | None, Header()] = None) -> str:
    if x_tenant is None:
        raise HTTPException(400, "X-Tenant is missing")
    if x_tenant not in TENANTS:
        raise Problem(Code.FORBIDDEN, "No such tenant")
    return x_tenant


async def lease(tenant: Annotated[str, Depends(tenant)]) -> AsyncIterator[str]:
    """A dependency with teardown."""
    opened.append(tenant)
    try:
        yield f"lease of {tenant}"
    finally:
        ended.append(tenant)


class Stamp:
    """A pure ASGI middleware: sets a header on the handshake and a context variable."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            tenant_of_handshake.set(dict(scope["headers"]).get(b"x-tenant", b"").decode())

        async def stamped(message: Any) -> None:
            if message["type"] == "websocket.accept":
                message["headers"] = [*message.get("headers", ()), (b"x-stamp", b"seen")]
            await send(message)

        await self._app(scope, receive, stamped)


realtime = RealtimeRouter()


@realtime.method("tenants.mine")
async def mine() -> str:
    """Requests run with the context variables of the handshake."""
    return tenant_of_handshake.get()


router = APIRouter()


@router.websocket("/ws")
async def websocket(
    websocket: WebSocket,
    caller: CallerDep,
    tenant: Annotated[str, Depends(tenant)],
    lease: Annotated[str, Depends(lease)],
    settings: Annotated[Settings, Depends(provided(Settings))],
    bff: BffDep,
) -> None:
    assert lease == f"lease of {tenant}"
    assert settings is bff.settings
    await serve_websocket(websocket, caller)


@router.websocket("/admins")
async def admins(
    websocket: WebSocket, caller: Annotated[Caller, Depends(requires("admin"))]
) -> None:
    await serve_websocket(websocket, caller)


@pytest.fixture(params=[None, "websockets-sansio"], ids=["bff serve", "other server"])
async def bff(request: pytest.FixtureRequest, settings: Settings) -> AsyncIterator[RunningBff]:
    opened.clear()
    ended.clear()
    engine = Bff(settings, realtime=[realtime])
    app = FastAPI(lifespan=engine.lifespan)
    engine.install(app)
    app.add_middleware(Stamp)
    app.include_router(router)
    async with run(app, ws=request.param) as running:
        yield running


async def refused(bff: RunningBff, **headers: str) -> int:
    headers = {"Authorization": f"Bearer {bff.token('alice')}"} | headers
    with pytest.raises(InvalidStatus) as refusal:
        async with bff.handshake("", headers):
            pass
    return refusal.value.response.status_code


async def test_a_dependency_can_refuse_a_handshake(bff: RunningBff) -> None:
    assert await refused(bff) == 400
    assert await refused(bff, **{"X-Tenant": "nobody"}) == 403
    assert opened == []


async def test_dependencies_and_middleware_run_and_frames_are_answered(bff: RunningBff) -> None:
    headers = {"Authorization": f"Bearer {bff.token('alice')}", "X-Tenant": "acme"}
    async with bff.handshake("", headers) as browser:
        assert browser.websocket.response is not None
        assert browser.websocket.response.headers["x-stamp"] == "seen"
        assert (await browser.receive())["payload"]["topic"] == "hello"
        answer = await browser.request("tenants", "mine")
        assert answer["result"] == "acme"
        await bff.engine.messenger.to_user("alice", "news", 1)
        assert (await browser.event("news"))["event"] == 1
    assert opened == ["acme"]
    await until(lambda: ended == ["acme"])


async def test_a_missing_token_closes_with_4500(bff: RunningBff) -> None:
    async with bff.handshake("", {"X-Tenant": "acme"}) as browser:
        assert await browser.closed() == 4500


async def test_scopes_can_be_required(bff: RunningBff) -> None:
    for scopes, expected in (([], 403), (["admin"], 101)):
        headers = {"Authorization": f"Bearer {bff.token('alice', scopes)}"}
        try:
            async with bff.handshake("", headers, path="/admins") as browser:
                await browser.receive()
                status = 101
        except InvalidStatus as refusal:
            status = refusal.response.status_code
        assert status == expected
