"""The user's access token: asked for, refreshed once for all, and never seen by the page."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import httpx2
import pytest
from bff import AccessToken, RealtimeRouter
from bff.connections.close_codes import CloseCode
from bff.endpoints import AccessTokenDep
from bff.testing import RunningBff
from fastapi import APIRouter
from redis.asyncio import Redis

from tests.engine.sign_in.conftest import Certified, Page, Provider, Start

Respond = Callable[[httpx2.Request], Awaitable[httpx2.Response]]

mine = APIRouter()
realtime = RealtimeRouter()


@mine.get("/upstream")
async def upstream(token: AccessTokenDep) -> str:
    return token[-6:]


@realtime.method("mine.upstream")
async def method(token: AccessToken) -> str:
    return token[-6:]


@pytest.fixture
async def signing_bff(start: Start) -> AsyncIterator[RunningBff]:
    async with start(mine, realtime) as running:
        yield running


async def token_of(page: Page) -> str:
    response = await page.fetch("GET", "/upstream")
    assert response.status_code == 200, response.text
    token: str = response.json()
    return token


async def test_routes_and_methods_get_the_access_token(page: Page) -> None:
    await page.sign_in()
    token = await token_of(page)
    async with page.socket() as browser:
        await browser.receive()
        assert (await browser.request("mine", "upstream"))["result"] == token


async def test_an_expired_access_token_is_refreshed_again_and_again(
    page: Page, provider: Provider
) -> None:
    """The refresh token is a new one each time (rotation)."""
    await page.sign_in("rose")
    tokens = [await token_of(page)]
    for _ in range(3):
        await page.expire_access_token()
        tokens.append(await token_of(page))
        assert await token_of(page) == tokens[-1]
    assert len(set(tokens)) == 4
    assert count(provider, page.bff, "rose") == 3


async def test_where_nobody_asks_there_is_no_refresh(page: Page, provider: Provider) -> None:
    await page.sign_in("nora")
    await page.expire_access_token()
    assert await page.me() is not None
    async with page.socket() as browser:
        await browser.receive()
        await browser.request("echo", "say", text="hi")
    assert count(provider, page.bff, "nora") == 0


async def test_a_refused_refresh_ends_the_session(page: Page) -> None:
    await page.sign_in()
    async with page.socket() as browser:
        await browser.receive()
        await page.expire_access_token()
        await revoke_refresh_token(page)
        assert (await page.fetch("GET", "/upstream")).status_code == 401
        assert await browser.closed() == CloseCode.SESSION_ENDED
    assert await page.me() is None
    audit = page.bff.engine.audit
    await audit._waiting.join()
    (entry,) = await audit.read(action="provider_logout")
    (sign_in,) = await audit.read(action="sign_in", user_id=entry.user_id)
    assert (entry.actor_id, entry.session_id) == (None, sign_in.session_id)
    assert entry.details == {"reason": "refresh refused"}


async def test_a_refresh_counts_although_its_lock_was_not_released(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    await page.sign_in()
    await page.expire_access_token()

    async def away(*_: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr(page.sign_ins.access_tokens, "_release", away)
    assert (await page.fetch("GET", "/upstream")).status_code == 200


async def revoke_refresh_token(page: Page) -> None:
    key = page.key
    tokens = await page.bff.engine.sessions.tokens(key)
    assert tokens is not None
    await page.sign_ins.provider.revoke(tokens.refresh_token or "", "refresh_token")


async def test_one_refresh_for_parallel_requests(page: Page, provider: Provider) -> None:
    await page.sign_in("paul")
    await page.expire_access_token()
    found = await asyncio.gather(*(token_of(page) for _ in range(25)))
    assert len(set(found)) == 1
    assert count(provider, page.bff, "paul") == 1


async def test_50_parallel_requests_on_two_instances_make_one_token_call(
    start: Start,
    pages: Callable[[RunningBff], Page],
    provider: Provider,
    real_redis: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The provider takes its time, so that all of them ask while the refresh runs."""
    async with start(mine) as a, start(mine) as b:
        first, second = pages(a), pages(b)
        await first.sign_in("quinn")
        second.cookie = first.cookie
        await first.expire_access_token()
        before = token_requests(provider, monkeypatch, (a, b), delay_ms=300)
        found = await asyncio.gather(*(token_of(page) for page in (first, second) * 25))
        assert len(set(found)) == 1
        assert token_requests(provider, monkeypatch, (a, b), delay_ms=0) == before + 1


def token_requests(
    provider: Provider,
    monkeypatch: pytest.MonkeyPatch,
    bffs: Sequence[RunningBff],
    *,
    delay_ms: int,
) -> int:
    """How many requests the token endpoint has got; each takes so long from now on."""
    if isinstance(provider, Certified):
        return provider.server.token_requests(delay_ms=delay_ms)
    found = 0
    for bff in bffs:
        idp = bff.engine.identity_provider
        assert idp is not None
        found += len(idp.token_requests)
        monkeypatch.setattr(idp, "_respond", _slow(idp._respond, delay_ms / 1000))
    return found


def _slow(respond: Respond, seconds: float) -> Respond:
    async def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path != "/token":
            return await respond(request)
        response = await respond(request)
        await asyncio.sleep(seconds)
        return response

    return answer


def count(provider: Provider, bff: RunningBff, user: str) -> int:
    return Counter(provider.grants(bff, user))["refresh_token"]


async def test_a_caller_with_a_token_has_no_access_token(page: Page) -> None:
    async with page.bff.http("bob") as http:
        assert (await http.get("/upstream")).status_code == 403


async def test_redis_holds_no_token_in_plain_text(page: Page, real_redis: str) -> None:
    await page.sign_in()
    token = await page.bff.engine.sessions.tokens(page.key)
    assert token is not None
    redis: Redis = Redis.from_url(real_redis)
    async with redis:
        keys = [key async for key in redis.scan_iter(f"{page.bff.settings.prefix}:*")]
        found = [key + await redis.dump(key) for key in keys]
    assert found
    secrets = (page.cookie, page.key.secret, token.access_token, token.id_token)
    for secret in secrets:
        assert not any(secret.encode() in text for text in found)
