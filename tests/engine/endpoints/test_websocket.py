"""The handshake at `/ws`, over a real WebSocket: credentials, limits, draining."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import websockets
from bff.connections.close_codes import CloseCode
from bff.settings import Settings
from bff.testing import RunningBff, until

ORIGIN = "http://localhost:8000"


@pytest.fixture(params=[None, "websockets-sansio"], ids=["detached", "asgi"])
def ws(request: pytest.FixtureRequest) -> str | None:
    value: str | None = request.param
    return value


async def ticket(bff: RunningBff, **headers: str) -> str:
    async with bff.http() as http:
        response = await http.post("/auth/ticket", headers=headers)
    assert response.status_code == 200
    value: str = response.json()["ticket"]
    return value


async def first_code(bff: RunningBff, **options: Any) -> int | None:
    """The close code of a connection that is refused after the handshake was accepted."""
    async with bff.handshake(**options) as browser:
        return await browser.closed()


async def test_the_hello_comes_first_and_names_user_and_instance(bff: RunningBff) -> None:
    async with bff.browser("alice") as browser:
        hello = browser.hello
        assert (hello["user_id"], hello["username"]) == ("alice", "alice")
        assert hello["session_id"].startswith(bff.engine.index.instance_id)
        assert set(hello["positions"]) == {"user", "all"}


async def test_the_subprotocol_is_optional(bff: RunningBff) -> None:
    async with bff.browser(subprotocols=["bff.v1"]) as browser:
        assert browser.websocket.subprotocol == "bff.v1"
    async with bff.browser(subprotocols=["other"]) as browser:
        assert browser.websocket.subprotocol is None


async def test_a_ticket_is_valid_once(bff: RunningBff) -> None:
    query = f"?ticket={await ticket(bff, origin=ORIGIN)}"
    async with bff.handshake(query, origin=ORIGIN) as browser:
        assert (await browser.receive())["payload"]["topic"] == "hello"
    assert await first_code(bff, query=query, origin=ORIGIN) == CloseCode.NOT_AUTHENTICATED


async def test_a_cookie_is_accepted_from_allowed_origins_only(bff: RunningBff) -> None:
    cookie = {"Cookie": f"Authorization={bff.token('alice')}"}
    async with bff.handshake(headers=cookie, origin=ORIGIN) as browser:
        assert (await browser.receive())["payload"]["event"]["user_id"] == "alice"
    for origin in (None, "http://evil.example", "http://localhost:8000.evil.example", "null"):
        with pytest.raises(websockets.InvalidStatus, match="403"):
            async with bff.handshake(headers=cookie, origin=origin):
                pass


@pytest.mark.parametrize("header", ["", "not-a-token", "Bearer ", "Bearer a.b.c"])
async def test_an_invalid_token_closes_with_4500(bff: RunningBff, header: str) -> None:
    headers = {"Authorization": header} if header else None
    assert await first_code(bff, headers=headers) == CloseCode.NOT_AUTHENTICATED


async def test_an_expired_token_closes_with_4500(bff: RunningBff) -> None:
    headers = {"Authorization": f"Bearer {bff.token('alice', lifetime=-60)}"}
    assert await first_code(bff, headers=headers) == CloseCode.NOT_AUTHENTICATED


async def test_a_token_in_the_url_is_not_accepted(bff: RunningBff) -> None:
    query = f"?token={bff.token('alice')}"
    assert await first_code(bff, query=query) == CloseCode.NOT_AUTHENTICATED


async def test_an_unavailable_redis_closes_with_a_code_to_reconnect(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(bff.engine.tickets._pipeline, "submit", refuse)
    assert await first_code(bff, query="?ticket=x") == CloseCode.SERVER_ERROR


class TestDraining:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"drain_seconds": 1})

    async def test_new_connections_are_refused_and_the_instance_is_not_ready(
        self, bff: RunningBff
    ) -> None:
        async with bff.browser() as browser:
            draining = asyncio.create_task(bff.engine.draining.drain())
            assert (await browser.receive())["type"] == "drain"
            assert await browser.closed() == CloseCode.DRAIN
            await draining
        with pytest.raises(websockets.InvalidStatus, match="503"):
            async with bff.handshake():
                pass
        async with bff.http() as http:
            response = await http.get("/health/ready")
        assert response.status_code == 503
        assert response.json()["checks"]["instance"] == {"ok": False, "reason": "draining"}


class TestTheConnectionLimit:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_connections_per_user": 1})

    async def test_a_connection_beyond_the_limit_is_refused_until_another_closes(
        self, bff: RunningBff
    ) -> None:
        headers = {"Authorization": f"Bearer {bff.token('alice')}"}
        async with bff.browser("alice"):
            assert await first_code(bff, headers=headers) == CloseCode.CONNECTION_LIMIT
            async with bff.browser("bob"):
                pass

        async def closed() -> bool:
            return not await bff.engine.index.connections_of("alice")

        await until(closed)
        async with bff.browser("alice"):
            pass


async def test_a_lost_connection_leaves_no_state(bff: RunningBff) -> None:
    async with bff.browser("alice") as browser:
        browser.websocket.transport.abort()

        async def gone() -> bool:
            return not await bff.engine.index.connections_of("alice")

        await until(gone)
    value = bff.engine.metrics.registry.get_sample_value("bff_connections")
    assert value == 0
