"""Who gets in at `/ws`, over a real socket."""

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
    """The close code of a socket that is refused after it was accepted."""
    async with bff.handshake(**options) as browser:
        return await browser.closed()


async def test_hello_comes_first_and_says_who_and_where(bff: RunningBff) -> None:
    async with bff.browser("alice") as browser:
        hello = browser.hello
        assert (hello["user_id"], hello["username"]) == ("alice", "alice")
        assert hello["session_id"].startswith(bff.engine.index.instance_id)
        assert set(hello["positions"]) == {"user", "all"}


async def test_bff_v1_is_spoken_with_and_without_being_offered(bff: RunningBff) -> None:
    async with bff.browser(subprotocols=["bff.v1"]) as browser:
        assert browser.websocket.subprotocol == "bff.v1"
    async with bff.browser(subprotocols=["other"]) as browser:
        assert browser.websocket.subprotocol is None


async def test_a_ticket_lets_in_once(bff: RunningBff) -> None:
    query = f"?ticket={await ticket(bff, origin=ORIGIN)}"
    async with bff.handshake(query, origin=ORIGIN) as browser:
        assert (await browser.receive())["payload"]["topic"] == "hello"
    assert await first_code(bff, query=query, origin=ORIGIN) == CloseCode.NOT_AUTHENTICATED


async def test_a_cookie_lets_in_pages_of_our_origin_only(bff: RunningBff) -> None:
    cookie = {"Cookie": f"Authorization={bff.token('alice')}"}
    async with bff.handshake(headers=cookie, origin=ORIGIN) as browser:
        assert (await browser.receive())["payload"]["event"]["user_id"] == "alice"
    for origin in (None, "http://evil.example", "http://localhost:8000.evil.example", "null"):
        with pytest.raises(websockets.InvalidStatus, match="403"):
            async with bff.handshake(headers=cookie, origin=origin):
                pass


@pytest.mark.parametrize("header", ["", "nonsense", "Bearer ", "Bearer a.b.c"])
async def test_who_is_not_signed_in_sees_4500(bff: RunningBff, header: str) -> None:
    headers = {"Authorization": header} if header else None
    assert await first_code(bff, headers=headers) == CloseCode.NOT_AUTHENTICATED


async def test_an_expired_token_is_none(bff: RunningBff) -> None:
    headers = {"Authorization": f"Bearer {bff.token('alice', lifetime=-60)}"}
    assert await first_code(bff, headers=headers) == CloseCode.NOT_AUTHENTICATED


async def test_a_token_in_the_address_is_none(bff: RunningBff) -> None:
    query = f"?token={bff.token('alice')}"
    assert await first_code(bff, query=query) == CloseCode.NOT_AUTHENTICATED


async def test_redis_away_is_no_reason_to_give_up(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise ConnectionError("away")

    monkeypatch.setattr(bff.engine.tickets._pipeline, "submit", away)
    assert await first_code(bff, query="?ticket=x") == CloseCode.SERVER_ERROR


class TestDraining:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"drain_seconds": 1})

    async def test_nobody_is_let_in_and_the_instance_is_not_ready(self, bff: RunningBff) -> None:
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

    async def test_it_refuses_one_too_many_until_one_leaves(self, bff: RunningBff) -> None:
        headers = {"Authorization": f"Bearer {bff.token('alice')}"}
        async with bff.browser("alice"):
            assert await first_code(bff, headers=headers) == CloseCode.CONNECTION_LIMIT
            async with bff.browser("bob"):
                pass

        async def one_left() -> bool:
            return not await bff.engine.index.connections_of("alice")

        await until(one_left)
        async with bff.browser("alice"):
            pass


async def test_what_is_gone_leaves_no_trace(bff: RunningBff) -> None:
    async with bff.browser("alice") as browser:
        browser.websocket.transport.abort()

        async def gone() -> bool:
            return not await bff.engine.index.connections_of("alice")

        await until(gone)
    value = bff.engine.metrics.registry.get_sample_value("bff_connections")
    assert value == 0
