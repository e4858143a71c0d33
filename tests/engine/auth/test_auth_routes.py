"""A token gets a ticket, and the ticket opens a socket."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from typing import Any

import httpx2
from bff.settings import Settings
from fastapi import FastAPI

from tests.engine.auth.conftest import MakeToken

ORIGIN = "http://localhost:8000"


async def get_ticket(http: httpx2.AsyncClient, token: str, origin: str | None = ORIGIN) -> str:
    headers = {"Authorization": f"Bearer {token}"} | ({"Origin": origin} if origin else {})
    response = await http.post("/auth/ticket", headers=headers)
    assert response.status_code == 200
    ticket: str = response.json()["ticket"]
    return ticket


async def test_a_ticket_is_issued_and_not_cached(
    http: httpx2.AsyncClient, make_token: MakeToken, settings: Settings
) -> None:
    response = await http.post("/auth/ticket", headers={"Authorization": make_token()})
    assert response.headers["cache-control"] == "no-store"
    assert response.json()["expires_in"] == settings.ticket_seconds
    assert len(response.json()["ticket"]) >= 40


async def test_requests_without_a_token_or_from_other_origins_get_no_ticket(
    http: httpx2.AsyncClient, make_token: MakeToken
) -> None:
    assert (await http.post("/auth/ticket")).status_code == 401
    headers = {"Authorization": make_token(), "Origin": "http://evil"}
    assert (await http.post("/auth/ticket", headers=headers)).status_code == 403


async def test_too_many_tickets_are_refused_with_the_time_to_wait(
    http: httpx2.AsyncClient, make_token: MakeToken, settings: Settings
) -> None:
    token = make_token()
    for _ in range(settings.max_tickets_per_user):
        await get_ticket(http, token)
    response = await http.post("/auth/ticket", headers={"Authorization": token})
    assert response.status_code == 429
    assert response.json()["code"] == "rate_limited"
    assert 0 < int(response.headers["retry-after"]) <= settings.ticket_seconds


async def connect(app: FastAPI, query: str, origin: str) -> list[dict[str, Any]]:
    """The ASGI messages that the app sends when a browser opens `/ws`."""
    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "scheme": "ws",
        "path": "/ws",
        "raw_path": b"/ws",
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(b"host", b"bff"), (b"origin", origin.encode())],
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(dict(message))

    await app(scope, receive, send)
    return sent


async def test_a_ticket_opens_one_socket(
    app: FastAPI, http: httpx2.AsyncClient, make_token: MakeToken
) -> None:
    query = f"ticket={await get_ticket(http, make_token())}"
    accept, hello, _ = await connect(app, query, ORIGIN)
    assert accept["type"] == "websocket.accept"
    assert json.loads(hello["text"]) == {"user_id": "alice"}
    accept, close = await connect(app, query, ORIGIN)
    assert accept["type"] == "websocket.accept", "pages cannot read the status of a refusal"
    assert (close["type"], close["code"]) == ("websocket.close", 4500)


async def test_an_origin_that_is_not_allowed_is_refused_before_the_socket_is_accepted(
    app: FastAPI, http: httpx2.AsyncClient, make_token: MakeToken
) -> None:
    query = f"ticket={await get_ticket(http, make_token())}"
    refusal, body = await connect(app, query, "http://evil")
    assert (refusal["type"], refusal["status"]) == ("websocket.http.response.start", 403)
    assert json.loads(body["body"])["code"] == "forbidden"
    accept, *_ = await connect(app, query, ORIGIN)
    assert accept["type"] == "websocket.accept", "a refused origin does not use up the ticket"
