"""The embedded identity provider keeps the rules that a real one keeps, so that what works in
development works elsewhere."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from bff.auth.oidc.provider import MEMORY_ISSUER
from bff.development import identity_provider
from bff.development.identity_provider import EmbeddedIdentityProvider, embedded
from bff.settings import Settings
from fastapi import FastAPI

from tests.engine.echo import create_app

VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode()[:-1]
CALLBACK = "http://localhost/auth/callback"
REDEEM = {
    "grant_type": "authorization_code",
    "code_verifier": VERIFIER,
    "redirect_uri": CALLBACK,
}


@pytest.fixture
def signing(settings: Settings) -> Settings:
    return settings.model_copy(update={"oidc_issuer": "memory://", "root_path": "/bff"})


@pytest.fixture
def idp(signing: Settings) -> EmbeddedIdentityProvider:
    return EmbeddedIdentityProvider(signing)


@pytest.fixture
async def http(idp: EmbeddedIdentityProvider) -> AsyncIterator[httpx2.AsyncClient]:
    """What the BFF asks."""
    async with httpx2.AsyncClient(transport=idp.transport(), base_url="http://id") as http:
        yield http


def code_of(idp: EmbeddedIdentityProvider) -> str:
    return idp.code("ann", "orders", nonce="n", challenge=CHALLENGE, redirect_uri=CALLBACK)


async def refused(http: httpx2.AsyncClient, **form: str) -> bool:
    answer = await http.post("/token", data=form)
    return (answer.status_code, answer.json()) == (400, {"error": "invalid_grant"})


async def redeemed(http: httpx2.AsyncClient, **form: str) -> dict[str, Any]:
    answer = await http.post("/token", data=form)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


def claims_of(tokens: dict[str, Any]) -> dict[str, Any]:
    """The claims of the ID token."""
    payload = tokens["id_token"].split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(f"{payload}=="))
    return claims


async def test_a_code_is_worth_tokens_once_and_only_for_the_request_that_it_is_of(
    idp: EmbeddedIdentityProvider, http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = code_of(idp)
    for changed in (
        {"code_verifier": "w" * 43},
        {"redirect_uri": "http://localhost/other/auth/callback"},
        {"code": idp.sign({})},
        {"grant_type": "refresh_token", "refresh_token": code},
    ):
        assert await refused(http, **{**REDEEM, "code": code, **changed}), changed
    with monkeypatch.context() as late:
        late.setattr(identity_provider, "_CODE_SECONDS", -1)
        assert await refused(http, **REDEEM, code=code), "too late"
    tokens = await redeemed(http, **REDEEM, code=code)
    assert (tokens["token_type"], tokens["expires_in"]) == ("Bearer", idp.access_token_seconds)
    claims = claims_of(tokens)
    assert 0 < claims.pop("exp") - claims.pop("iat") <= 600
    assert claims.pop("sid")
    about = {"sub": "ann", "scope": "orders", "nonce": "n"}
    assert claims == {"iss": MEMORY_ISSUER, "aud": "bff", **about}
    assert await refused(http, **REDEEM, code=code), "twice"
    assert await refused(http, **REDEEM, code=tokens["refresh_token"])


async def test_an_access_token_is_that_of_a_user_until_it_expires(
    idp: EmbeddedIdentityProvider, http: httpx2.AsyncClient
) -> None:
    tokens = await redeemed(http, **REDEEM, code=code_of(idp))

    async def told(token: str) -> httpx2.Response:
        return await http.get("/userinfo", headers={"Authorization": f"Bearer {token}"})

    answer = await told(tokens["access_token"])
    assert (answer.status_code, answer.json()) == (200, {"sub": "ann", "name": "ann"})
    for other in ("refresh_token", "id_token"):
        assert (await told(tokens[other])).status_code == 401
    idp.access_token_seconds = -1
    assert (await told(tokens["access_token"])).status_code == 401


async def test_a_refresh_token_is_worth_one_refresh_and_none_after_it_is_revoked(
    idp: EmbeddedIdentityProvider, http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many were used before: the oldest are forgotten first."""
    monkeypatch.setattr(identity_provider, "_MAX_USED", 2)
    code = code_of(idp)
    token = (await redeemed(http, **REDEEM, code=code))["refresh_token"]
    for _ in range(4):
        refresh = {"grant_type": "refresh_token", "refresh_token": token}
        token = (await redeemed(http, **refresh))["refresh_token"]
        assert await refused(http, **refresh)
    assert idp.token_requests == ["refresh_token"] * 2
    assert await redeemed(http, **REDEEM, code=code), "that it was used is forgotten"
    revoked = await http.post("/revoke", data={"token": token})
    assert revoked.status_code == 200
    assert await refused(http, grant_type="refresh_token", refresh_token=token)


async def test_instances_with_one_secret_take_each_others_codes_and_have_one_key(
    signing: Settings, idp: EmbeddedIdentityProvider, http: httpx2.AsyncClient
) -> None:
    """A sign-in outlives the reload of the process."""
    others = {
        "with the same secret": signing.model_copy(update={"oidc_client_id": "shop"}),
        "with none": signing.model_copy(update={"jwt_secret": None}),
    }
    keys = await http.get("/keys")
    metadata = await http.get("/.well-known/openid-configuration")
    for name, settings in others.items():
        other = embedded(settings)
        assert other is not None
        is_same = name == "with the same secret"
        async with httpx2.AsyncClient(transport=other.transport(), base_url="http://id") as asked:
            assert ((await asked.get("/keys")).json() == keys.json()) is is_same
            answer = await asked.post("/token", data={**REDEEM, "code": code_of(idp)})
            assert answer.is_success is is_same
            if is_same:
                assert claims_of(answer.json())["aud"] == "shop"
    assert keys.status_code == metadata.status_code == 200
    assert [sorted(key) for key in keys.json()["keys"]] == [["crv", "kid", "kty", "use", "x", "y"]]
    assert metadata.json()["authorization_response_iss_parameter_supported"] is True
    assert metadata.json()["authorization_endpoint"].startswith("/bff/dev/")
    assert embedded(signing.model_copy(update={"oidc_issuer": None})) is None


ASKED = {"state": "s", "nonce": "n", "code_challenge": CHALLENGE}
ALLOWED = {"answer": "allow", "user": "ann", "scopes": "orders admin"}


@pytest.mark.parametrize(
    ("form", "told"),
    [
        (ALLOWED, "code"),
        ({"answer": "allow", "user": "ann"}, "code"),
        ({"answer": "deny", "user": "ann"}, "error"),
        ({"answer": "allow"}, "error"),
    ],
    ids=["allowed", "allowed without scopes", "denied", "nobody"],
)
async def test_the_page_sends_the_browser_back_to_this_bff_and_to_no_other_place(
    signing: Settings, form: dict[str, str], told: str
) -> None:
    app: FastAPI = create_app(signing.model_copy(update={"root_path": ""}))
    assert not [path for path in app.openapi()["paths"] if path.startswith("/dev")]
    pages = "/dev/identity-provider"
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as browser:
        for elsewhere in ("https://evil.invalid/auth/callback", "http://localhost/other"):
            query = {**ASKED, "redirect_uri": elsewhere}
            for method in ("GET", "POST"):
                answer = await browser.request(
                    method, f"{pages}/authorize", params=query, data=form
                )
                assert answer.status_code == 422, elsewhere
        query = {**ASKED, "redirect_uri": CALLBACK}
        page = await browser.get(f"{pages}/authorize", params=query)
        assert page.status_code == 200
        policy = page.headers["content-security-policy"]
        assert "form-action 'self'" in policy
        inline = re.findall(r"<(script|style)\b[^>]*>(.+?)</", page.text, re.DOTALL)
        assert inline
        for kind, content in inline:
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert re.search(rf"{kind}-src [^;]*'sha256-{re.escape(digest)}'", policy)
        assert page.headers["cache-control"] == "no-store"
        answer = await browser.post(f"{pages}/authorize", params=query, data=form)
        back = httpx2.URL(answer.headers["location"])
        assert answer.status_code == 303
        assert str(back).startswith(f"{CALLBACK}?")
        assert {*back.params} == {"state", "iss", told}
        assert (back.params["state"], back.params["iss"]) == ("s", MEMORY_ISSUER)
        out = await browser.get(
            f"{pages}/logout", params={"post_logout_redirect_uri": "http://localhost/bye"}
        )
        assert (out.status_code, out.headers["location"]) == (303, "http://localhost/bye")
        out = await browser.get(
            f"{pages}/logout", params={"post_logout_redirect_uri": "http://evil.invalid/"}
        )
        assert out.status_code == 422
