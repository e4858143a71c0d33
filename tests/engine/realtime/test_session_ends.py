"""The end of a session closes its sockets and event streams, and it cannot come back."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx2
import pytest
from bff.testing import RunningBff, until
from websockets.exceptions import ConnectionClosed

ORIGIN = {"Origin": "http://localhost:8000"}


async def revoke(bff: RunningBff, path: str) -> None:
    async with bff.http("carol", ["admin"]) as http:
        response = await http.post(f"/admin/{path}/revoke")
    assert response.status_code == 204, response.text


async def first_close(bff: RunningBff, query: str = "", token: str = "") -> int | None:
    headers = {"Authorization": f"Bearer {token}"} if token else dict(ORIGIN)
    async with bff.handshake(query, headers) as browser:
        return await browser.closed()


@pytest.mark.parametrize("path", ["sessions/s-1", "tokens/t-1", "users/alice"])
async def test_what_is_revoked_closes_and_cannot_come_back(bff: RunningBff, path: str) -> None:
    token = bff.token("alice", session_id="s-1", token_id="t-1")
    bearer = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(base_url=f"http://{bff.address}") as http,
        bff.browser(token=token) as socket,
        bff.events(token=token) as stream,
    ):
        answer = await http.post("/auth/ticket", headers=bearer | ORIGIN)
        ticket = answer.json()["ticket"]
        await revoke(bff, path)
        assert await socket.closed() == 4505
        assert await stream.closed() == 4505
        assert await first_close(bff, token=token) == 4505
        assert await first_close(bff, f"?ticket={ticket}") == 4505
        for method, url in (
            ("GET", "/events"),
            ("POST", "/auth/ticket"),
            ("POST", "/rpc/echo/say"),
            ("GET", "/admin/stats"),
        ):
            refused = await http.request(method, url, headers=bearer | ORIGIN, json={})
            assert refused.status_code == 401, url
            assert refused.json()["code"] == "unauthenticated"
            assert refused.json()["detail"] == "The session has ended; sign in again."


async def test_other_sessions_of_the_user_stay_open(bff: RunningBff) -> None:
    others = [bff.token("alice", session_id="s-2"), bff.token("alice")]
    async with (
        bff.browser(token=bff.token("alice", session_id="s-1")) as ended,
        bff.browser(token=others[0]) as second,
        bff.browser(token=others[1]) as without_session,
        bff.events(token=others[0]) as stream,
    ):
        await bff.engine.messenger.close_session("s-1")
        assert await ended.closed() == 4505
        for browser in (second, without_session):
            assert (await browser.ask({"type": "ping", "payload": {"trace_id": "p"}})) == {
                "trace_id": "p"
            }
        await bff.engine.messenger.to_user("alice", "still", {})
        await stream.event("still")


async def test_a_sign_in_after_the_revocation_of_a_user_is_accepted(bff: RunningBff) -> None:
    async with bff.browser(token=bff.token("alice")) as before:
        await bff.engine.revocations.revoke_user("alice", until=0)
        ping = {"type": "ping", "payload": {"trace_id": "p"}}
        assert await before.ask(ping) == {"trace_id": "p"}
        await revoke(bff, "users/alice")
        assert await before.closed() == 4505
    revoked_in = int(time.time())
    await until(lambda: int(time.time()) > revoked_in)  # `iat` has whole seconds
    async with bff.browser(token=bff.token("alice")) as after:
        assert await after.ask(ping) == {"trace_id": "p"}


async def test_a_socket_cannot_change_to_a_revoked_token(bff: RunningBff) -> None:
    await bff.engine.messenger.close_session("s-1")
    async with bff.browser(token=bff.token("alice", session_id="s-2")) as browser:
        revoked = bff.token("alice", session_id="s-1")
        answer = await browser.ask(
            {"type": "authenticate", "payload": {"token": revoked, "trace_id": "a"}}
        )
        assert answer["error"]["code"] == "unauthenticated"


async def test_a_socket_belongs_to_the_session_of_its_last_token(bff: RunningBff) -> None:
    async with bff.browser(token=bff.token("alice", session_id="s-1")) as browser:
        fresh = bff.token("alice", session_id="s-2")
        payload: dict[str, Any] = {"token": fresh, "trace_id": "a"}
        assert (await browser.ask({"type": "authenticate", "payload": payload}))["error"] is None
        (shown,) = await bff.engine.index.connections_of("alice")
        assert shown.session_id == "s-2"
        await bff.engine.messenger.close_session("s-2")
        assert await browser.closed() == 4505


async def test_only_administrators_revoke(bff: RunningBff) -> None:
    async with bff.http("alice") as http:
        for path in ("sessions/s-1", "tokens/t-1", "users/alice"):
            assert (await http.post(f"/admin/{path}/revoke")).status_code == 403


async def test_a_connect_is_refused_although_the_message_about_its_session_was_lost(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of changes that the connect reads says that one is missing."""
    revocations = bff.engine.revocations
    await until(lambda: revocations._version is not None)
    with monkeypatch.context() as patch:
        received = asyncio.Event()
        patch.setattr(revocations, "on_message", lambda _: received.set())
        patch.setattr(revocations, "_apply", lambda _: None)
        await revocations.revoke_session("s-1")
        await received.wait()
    token = bff.token("alice", session_id="s-1")
    assert not revocations.is_revoked(await bff.engine.verifier.verify(token))
    async with bff.handshake("", {"Authorization": f"Bearer {token}"}) as browser:
        with pytest.raises(ConnectionClosed):  # without a hello before
            await browser.receive()
        assert await browser.closed() == 4505


async def test_a_token_that_lives_too_long_is_refused(bff: RunningBff) -> None:
    token = bff.token("alice", lifetime=bff.settings.max_token_seconds + 60)
    assert await first_close(bff, token=token) == 4500
