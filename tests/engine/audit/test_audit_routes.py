"""What administrators and users do is recorded, and administrators can read it."""

from __future__ import annotations

import logging
from typing import Any

import httpx2
import pytest
from bff.testing import RunningBff, until

ORIGIN = {"Origin": "http://localhost:8000"}


async def audit_of(bff: RunningBff, **query: str) -> list[dict[str, Any]]:
    await bff.engine.audit._waiting.join()
    async with bff.http("carol", ["admin"]) as http:
        response = await http.get("/admin/audit", params=query)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()
    return found


async def test_every_act_of_an_administrator_is_recorded(bff: RunningBff) -> None:
    broadcast = {"audience": "all", "topic": "notice", "event": {"text": "hi"}}
    async with bff.http("carol", ["admin"]) as http:
        await http.post("/admin/users/alice/revoke")
        await http.post("/admin/sessions/s-1/revoke")
        await http.post("/admin/tokens/t-1/revoke")
        await http.delete("/admin/users/alice/connections")
        stored = (await http.post("/admin/broadcasts", json=broadcast)).json()
    entries = await audit_of(bff)
    assert {entry["actor_id"] for entry in entries} == {"carol"}
    assert {entry["address"] for entry in entries} == {"127.0.0.1"}
    assert {entry["outcome"] for entry in entries} == {"done"}
    assert [
        (entry["action"], entry["user_id"], entry["session_id"], entry["details"])
        for entry in entries
    ] == [
        ("broadcast_sent", None, None, {"broadcast": stored["id"], "audience": "all"}),
        ("connections_closed", "alice", None, {}),
        ("token_revoked", None, None, {"token_id": "t-1"}),
        ("session_revoked", None, "s-1", {}),
        ("user_revoked", "alice", None, {}),
    ]
    assert len(await audit_of(bff, action="user_revoked", actor="carol", user="alice")) == 1
    assert await audit_of(bff, until="2000-01-01T00:00:00Z") == []
    older = await audit_of(bff, before=entries[1]["id"], limit="2")
    assert [entry["action"] for entry in older] == ["token_revoked", "session_revoked"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("before", "\0"),
        ("before", "x" * 37),
        ("action", "\0"),
        ("action", "x" * 65),
        ("since", "0001-01-01T00:00:00+14:00"),
        ("until", "9999-12-31T23:59:59-14:00"),
    ],
)
async def test_what_the_database_cannot_compare_is_refused(
    bff: RunningBff, name: str, value: str
) -> None:
    async with bff.http("carol", ["admin"]) as http:
        response = await http.get("/admin/audit", params={name: value})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_params")
    assert name in response.json()["detail"]


async def test_an_act_that_fails_is_recorded_as_failed(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: str) -> None:
        raise TimeoutError

    monkeypatch.setattr(bff.engine.revocations, "revoke_session", fail)
    async with bff.http("carol", ["admin"]) as http:
        assert (await http.post("/admin/sessions/s-1/revoke")).status_code >= 500
    (entry,) = await audit_of(bff)
    assert (entry["action"], entry["outcome"]) == ("session_revoked", "failed")


async def test_an_act_waits_for_no_database(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: Any) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(bff.engine.audit, "_insert", fail)
    async with bff.http("carol", ["admin"]) as http:
        assert (await http.post("/admin/sessions/s-1/revoke")).status_code == 204
    monkeypatch.undo()
    assert [entry["action"] for entry in await audit_of(bff)] == ["session_revoked"]


async def test_only_administrators_read_it(bff: RunningBff) -> None:
    async with bff.http("alice") as http:
        assert (await http.get("/admin/audit")).status_code == 403


async def test_a_body_that_is_not_read_for_want_of_a_scope_is_a_logged_refusal(
    bff: RunningBff, caplog: pytest.LogCaptureFixture
) -> None:
    """A `JsonRoute` checks the scopes before FastAPI calls dependencies."""
    caplog.set_level(logging.INFO)
    async with bff.http("alice") as http:
        assert (await http.post("/admin/broadcasts", content=b"{")).status_code == 403
    (line,) = [vars(one) for one in caplog.records if one.getMessage() == "request refused"]
    assert (line["code"], line["user"], line["address"]) == ("forbidden", "alice", "127.0.0.1")


async def test_acts_of_administrators_that_others_try_are_recorded(bff: RunningBff) -> None:
    broadcast = {"audience": "all", "topic": "notice", "event": {"text": "hi"}}
    long = "x" * 100
    async with bff.http("mallory", ["other"]) as http:
        for method, path, body in (
            ("DELETE", "/admin/users/alice/connections", None),
            ("POST", f"/admin/sessions/{long}/revoke?{long}", None),
            ("POST", "/admin/broadcasts", broadcast),
            ("GET", "/admin/stats", None),
        ):
            assert (await http.request(method, path, json=body)).status_code == 403
    entries = await audit_of(bff)
    assert {(one["action"], one["outcome"], one["actor_id"]) for one in entries} == {
        ("admin_request", "refused", "mallory")
    }
    assert [one["details"] for one in entries] == [
        {"method": "POST", "path": "/admin/broadcasts"},
        {"method": "POST", "path": f"/admin/sessions/{long}/revoke"},
        {"method": "DELETE", "path": "/admin/users/alice/connections"},
    ]


async def test_connects_and_refusals_are_logged_with_address_and_user_and_without_secrets(
    bff: RunningBff, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    token = bff.token("alice", session_id="s-1")
    bearer = {"Authorization": f"Bearer {token}"}
    body = "canary-in-a-body-4711"
    async with httpx2.AsyncClient(base_url=f"http://{bff.address}", headers=bearer) as http:
        ticket = (await http.post("/auth/ticket", headers=ORIGIN)).json()["ticket"]
        assert (await http.get("/admin/stats")).status_code == 403
        for _ in range(2):
            await http.post("/rpc/echo/shout", json={"text": body})
    bad = f"{token[:-6]}canary"
    async with httpx2.AsyncClient(base_url=f"http://{bff.address}") as http:
        for headers in ({"Authorization": bad}, {"Cookie": f"Authorization={bad}"}):
            assert (await http.get("/admin/stats", headers=headers)).status_code == 401
    async with bff.handshake(f"?ticket={ticket}", ORIGIN) as browser:
        await browser.receive()
        await browser.send({"type": "request", "payload": {"service": "x", "method": body}})
    for query, refused_headers in ((f"?ticket={ticket}", ORIGIN), ("", {"Authorization": bad})):
        async with bff.handshake(query, refused_headers) as browser:
            assert await browser.closed() == 4500
    async with bff.http("carol", ["admin"]) as http:
        assert (await http.post("/admin/sessions/s-1/revoke")).status_code == 204
    await until(lambda: "connection closed" in caplog.messages)
    lines: dict[str, list[dict[str, Any]]] = {}
    records = [one for one in caplog.records if one.name.startswith(("app", "bff", "uvicorn"))]
    for record in records:
        lines.setdefault(record.getMessage(), []).append(vars(record))
    (opened,) = lines["connection opened"]
    assert (opened["user"], opened["session"], opened["address"]) == ("alice", "s-1", "127.0.0.1")
    refusals = {(line["code"], line["user"], line["address"]) for line in lines["request refused"]}
    assert refusals == {
        ("forbidden", "alice", "127.0.0.1"),
        ("unauthenticated", None, "127.0.0.1"),
    }
    stored = await audit_of(bff)
    everything = repr([vars(record) for record in records]) + repr(stored)
    for secret in (token, bad, ticket, body, token.rpartition(".")[2]):
        assert secret not in everything
