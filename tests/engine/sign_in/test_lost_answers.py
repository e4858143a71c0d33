"""Answers of the token endpoint that are lost on the way, and requests that are cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx2
import pytest
from bff.auth.oidc.errors import AnswerLost

from tests.engine.sign_in.conftest import Embedded, Page, Provider
from tests.engine.sign_in.test_access_tokens import count, signing_bff, token_of

__all__ = ["signing_bff"]


@pytest.fixture
def provider() -> Provider:
    return Embedded()


@pytest.fixture
def lossy(monkeypatch: pytest.MonkeyPatch, page: Page) -> list[str]:
    """Answers of the token endpoint that are to be lost: before or after the provider has done
    what was asked."""
    idp = page.bff.engine.identity_provider
    assert idp is not None
    losses: list[str] = []
    respond = idp._respond

    async def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path != "/token" or not losses:
            return await respond(request)
        if losses.pop(0) == "after":
            await respond(request)
        raise httpx2.ReadTimeout("lost")

    monkeypatch.setattr(idp, "_respond", answer)
    return losses


async def test_a_lost_answer_is_asked_for_again(page: Page, lossy: list[str]) -> None:
    await page.sign_in()
    await page.expire_access_token()
    lossy.append("before")
    await token_of(page)
    assert await page.me() is not None


async def test_a_provider_that_stays_away_ends_nothing(page: Page, lossy: list[str]) -> None:
    await page.sign_in()
    await page.expire_access_token()
    lossy += ["before", "before"]
    assert (await page.fetch("GET", "/upstream")).status_code == 503
    assert await page.me() is not None
    await token_of(page)


async def test_the_refresh_goes_on_without_the_request_that_began_it(page: Page) -> None:
    await page.sign_in()
    await page.expire_access_token()
    engine = page.bff.engine
    caller = await engine.sessions.load(page.key)
    assert caller is not None
    request = asyncio.create_task(engine.access_token(caller))
    while not page.sign_ins.access_tokens._refreshing:
        await asyncio.sleep(0)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    tokens = [await token_of(page) for _ in range(2)]
    assert len(set(tokens)) == 1
    assert count(Embedded(), page.bff, "ann") == 1


async def test_tokens_that_another_instance_has_stored_are_taken(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This instance was frozen during its refresh for longer than the lock is valid."""
    await page.sign_in()
    await page.expire_access_token()
    provider, sessions = page.sign_ins.provider, page.bff.engine.sessions
    refresh = provider.refresh

    async def late(refresh_token: str) -> dict[str, object]:
        response = await refresh(refresh_token)
        before = await sessions.tokens(page.key)
        assert before is not None
        fresh = type(before).from_response(response, before)
        assert fresh is not None
        await sessions.write_tokens(page.key, fresh)
        raise AnswerLost

    monkeypatch.setattr(provider, "refresh", _once(late, refresh))
    await token_of(page)
    assert await page.me() is not None


def _once(first: Callable[[str], object], then: Callable[[str], object]) -> Callable[[str], object]:
    calls = iter((first,))
    return lambda token: next(calls, then)(token)
