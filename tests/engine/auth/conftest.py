"""The parts of `bff.auth`, and a small app that uses them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from bff import http_headers, problems
from bff.auth.authenticator import Authenticator
from bff.auth.caller import Caller
from bff.auth.sessions import SessionStore
from bff.auth.tickets import Tickets
from bff.auth.tokens import TokenVerifier
from bff.endpoints import tickets as tickets_endpoint
from bff.endpoints.dependencies import CallerDep
from bff.realtime.handshake_limit import HandshakeLimit
from bff.realtime.limits import TokenBuckets
from bff.redis.client import RedisClient
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings
from bff.testing.plugin import SECRET
from fastapi import FastAPI, WebSocket
from jose import jwt

from tests.engine.doubles import NothingRevoked

MakeToken = Callable[..., str]


@pytest.fixture
def make_token() -> MakeToken:
    """Signs claims with the secret of the settings. Claims that are None are left out."""

    def make(algorithm: str = "HS256", key: Any = SECRET, **claims: Any) -> str:
        complete = {"sub": "alice", "scope": "orders", "exp": int(time.time()) + 600} | claims
        present = {name: value for name, value in complete.items() if value is not None}
        return jwt.encode(present, key, algorithm=algorithm)

    return make


@pytest.fixture
def tickets(redis: RedisClient, settings: Settings) -> Tickets:
    return Tickets(AutoPipeline(redis), settings)


@pytest.fixture
def authenticator(settings: Settings, tickets: Tickets, redis: RedisClient) -> Authenticator:
    sessions = SessionStore(AutoPipeline(redis), settings)
    return Authenticator(settings, TokenVerifier(settings), tickets, sessions, NothingRevoked())


@pytest.fixture
def app(settings: Settings, tickets: Tickets, authenticator: Authenticator) -> FastAPI:
    app = FastAPI()
    app.state.bff = SimpleNamespace(
        settings=settings,
        tickets=tickets,
        authenticator=authenticator,
        draining=SimpleNamespace(begun=False),
        allowances=TokenBuckets(per_second=1000, burst=1000),
        handshake_limit=HandshakeLimit(settings),
    )
    problems.install(app)
    http_headers.install(app, [], lambda: False)
    app.include_router(tickets_endpoint.router)

    @app.api_route("/whoami", methods=["GET", "POST"])
    async def whoami(caller: CallerDep) -> dict[str, Any]:
        return {"user_id": caller.user_id, "scopes": sorted(caller.scopes)}

    @app.websocket("/ws")
    async def websocket(websocket: WebSocket, caller: CallerDep) -> None:
        await websocket.accept()
        await websocket.send_json({"user_id": caller.user_id})
        await websocket.close()

    return app


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://bff") as client:
        yield client


@pytest.fixture
def alice() -> Caller:
    return Caller(
        user_id="alice",
        username="Alice",
        scopes=frozenset({"admin", "orders"}),
        session_id="s-1",
        expires_at=int(time.time()) + 600,
    )
