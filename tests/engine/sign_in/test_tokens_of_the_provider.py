"""What the BFF sends to the token endpoint, and which of the provider's tokens it accepts."""

from __future__ import annotations

import asyncio
import base64
import gc
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from bff.auth.oidc.access_tokens import AccessTokens
from bff.auth.oidc.id_token import rejection_reason
from bff.auth.oidc.provider import _client
from bff.auth.session_tokens import Tokens
from bff.settings import Settings
from bff.testing import RunningBff
from pydantic import SecretStr

from tests.engine.sign_in.conftest import Embedded, Page, Provider, Start
from tests.engine.sign_in.test_access_tokens import mine, token_of

ISSUER, CLIENT = "https://id.example", "shop"


@pytest.fixture
def provider() -> Provider:
    return Embedded()


@pytest.fixture
async def signing_bff(start: Start) -> AsyncIterator[RunningBff]:
    async with start(mine) as running:
        yield running


def claims(**changes: Any) -> dict[str, Any]:
    """Times are given in seconds from now."""
    good: dict[str, Any] = {"iss": ISSUER, "aud": CLIENT, "exp": 60, "iat": 0, "nonce": "n"}
    given = {name: value for name, value in (good | changes).items() if value is not None}
    return given | {name: time.time() + given[name] for name in ("exp", "iat") if name in given}


def reason(given: dict[str, Any]) -> str | None:
    return rejection_reason(given, issuer=ISSUER, client_id=CLIENT, nonce="n")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"aud": [CLIENT]}, None),
        ({"aud": [CLIENT, "other"], "azp": CLIENT}, None),
        ({"azp": CLIENT}, None),
        ({"exp": -60}, None),
        ({"iat": 60}, None),
        ({"iss": "https://evil.example"}, "wrong issuer"),
        ({"iss": None}, "wrong issuer"),
        ({"aud": "other"}, "issued to another client"),
        ({"aud": None}, "issued to another client"),
        ({"aud": [CLIENT, "other"]}, "issued to another client"),
        ({"azp": "other"}, "issued to another client"),
        ({"exp": None}, "expired, or without exp"),
        ({"exp": -600}, "expired, or without exp"),
        ({"iat": None}, "issued in the future, or without iat"),
        ({"iat": 6000}, "issued in the future, or without iat"),
        ({"nonce": None}, "wrong nonce"),
        ({"nonce": "m"}, "wrong nonce"),
    ],
)
def test_an_id_token_is_accepted_or_the_reason_is_said(
    changes: dict[str, Any], expected: str | None
) -> None:
    assert reason(claims(**changes)) == expected


async def test_id_and_secret_are_encoded_as_in_a_form(settings: Settings) -> None:
    """RFC 6749, section 2.3.1: otherwise a colon in the id would move the border."""
    seen: list[str] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.headers["authorization"])
        return httpx2.Response(200, json={"access_token": "a", "token_type": "Bearer"})

    changed = settings.model_copy(update={"oidc_client_secret": SecretStr("p w:%ü")})
    client = _client(changed, "my:id", httpx2.MockTransport(answer))
    await client.fetch_token(f"{ISSUER}/token", grant_type="client_credentials")
    await client.aclose()
    (header,) = seen
    login = base64.b64decode(header.removeprefix("Basic ")).decode()
    assert login == "my%3Aid:p+w%3A%25%C3%BC"


@pytest.mark.parametrize(
    ("seconds", "status"), [(60, 200), (None, 200), (-60, 503)], ids=["valid", "no time", "expired"]
)
async def test_without_the_provider_a_token_is_used_while_it_is_valid(
    page: Page, monkeypatch: pytest.MonkeyPatch, seconds: float | None, status: int
) -> None:
    await page.sign_in()
    token = await token_of(page)
    sessions = page.bff.engine.sessions
    tokens = await sessions.tokens(page.key)
    assert tokens is not None
    expires_at = None if seconds is None else time.time() + seconds
    await sessions.write_tokens(page.key, replace(tokens, refresh_at=0, expires_at=expires_at))
    idp = page.bff.engine.identity_provider

    async def away(_: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused")

    monkeypatch.setattr(idp, "_respond", away)
    answer = await page.fetch("GET", "/upstream")
    assert answer.status_code == status
    if status == 200:
        assert answer.json() == token


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_refresh_without_a_request_that_waits_leaves_no_error(
    caplog: pytest.LogCaptureFixture, is_cancelled: bool
) -> None:
    async def fail() -> Any:
        if is_cancelled:
            await asyncio.Event().wait()
        raise ValueError

    tokens = object.__new__(AccessTokens)
    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    if is_cancelled:
        task.cancel()
    await asyncio.wait([task])
    tokens._refreshing = {"s": task}
    tokens._forget("s", task)
    assert tokens._refreshing == {}
    del task
    gc.collect()
    assert "never retrieved" not in caplog.text


@pytest.mark.parametrize(
    ("lifetime", "refreshed_after"),
    [(100, 80), (1000, 970), ("1000", 970), (None, None), ("soon", None), ([60], None)],
)
def test_an_access_token_is_refreshed_before_it_expires(
    lifetime: object, refreshed_after: float | None
) -> None:
    now = time.time()
    tokens = Tokens.from_response({"access_token": "a", "expires_in": lifetime})
    assert tokens is not None
    if refreshed_after is None:
        assert (tokens.expires_at, tokens.refresh_at) == (None, None)
        return
    assert tokens.refresh_at is not None
    assert tokens.expires_at is not None
    assert 0 <= tokens.refresh_at - now - refreshed_after < 60
    assert 0 <= tokens.expires_at - now - float(str(lifetime)) < 60


def test_what_a_refresh_leaves_out_stays_as_it_was_but_for_the_access_token() -> None:
    before = Tokens("a", expires_at=None, refresh_token="r", id_token="i")
    for answer, refresh_token, id_token in (
        ({}, "r", "i"),
        ({"refresh_token": "new"}, "new", "i"),
        ({"refresh_token": "", "id_token": "new"}, "r", "new"),
    ):
        after = Tokens.from_response({"access_token": "b"} | answer, before)
        assert after == Tokens("b", None, refresh_token, id_token)
    assert Tokens.from_response({"access_token": "b"}) == Tokens("b", None, None, "")
    for missing in (None, "", 7, ["a"]):
        assert Tokens.from_response({"access_token": missing, "id_token": "i"}, before) is None


async def test_an_access_token_without_a_refresh_token_is_used_until_it_expires(
    signing_bff: RunningBff, page: Page
) -> None:
    await page.sign_in("ann")
    store, key = signing_bff.engine.sessions, page.key
    tokens = await store.tokens(key)
    assert tokens is not None
    late = replace(tokens, refresh_token=None, refresh_at=time.time() - 1)
    await store.write_tokens(key, replace(late, expires_at=time.time() + 600))
    assert tokens.access_token.endswith(await token_of(page))
    await store.write_tokens(key, replace(late, expires_at=time.time() - 1))
    assert (await page.fetch("GET", "/upstream")).status_code == 401
