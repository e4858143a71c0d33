"""A provider that lies, fails or answers nonsense, and what needs no provider."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from bff.auth.session_cookie import SessionCookie
from bff.auth.session_key import SessionKey
from bff.cli import main
from bff.development import identity_provider
from bff.development.identity_provider import EmbeddedIdentityProvider
from bff.errors import Problem
from bff.settings import Settings
from bff.testing import RunningBff
from click.testing import CliRunner
from starlette.requests import Request
from starlette.responses import Response

from tests.engine.sign_in.conftest import Embedded, Page, Provider
from tests.engine.sign_in.test_attacks import refused


@pytest.fixture
def provider() -> Provider:
    return Embedded()


@pytest.fixture
def idp(signing_bff: RunningBff) -> EmbeddedIdentityProvider:
    assert signing_bff.engine.identity_provider is not None
    return signing_bff.engine.identity_provider


def lie(monkeypatch: pytest.MonkeyPatch, idp: EmbeddedIdentityProvider, **claims: Any) -> None:
    """ID tokens with other claims; None leaves one out. Functions get the true value."""
    sign = idp.sign

    def signed(true: Any) -> str:
        told = dict(true)
        for name, value in claims.items():
            told[name] = value(told.get(name)) if callable(value) else value
        return sign({name: value for name, value in told.items() if value is not None})

    monkeypatch.setattr(idp, "sign", signed)


LIES: dict[str, dict[str, Any]] = {
    "another nonce": {"nonce": "x"},
    "no nonce": {"nonce": None},
    "another issuer": {"iss": "https://evil.example"},
    "token of another client": {"aud": "other"},
    "token of another client too": {"aud": ["bff", "other"]},
    "another authorised party": {"aud": ["bff", "other"], "azp": "other"},
    "no audience": {"aud": None},
    "expired": {"exp": 1},
    "no expiry": {"exp": None},
    "clock off by an hour": {"iat": lambda now: now + 3600},
    "no user": {"sub": None},
    "userinfo of another user": {"sub": "bob"},
}


async def test_a_wrong_id_token_signs_nobody_in(page: Page, idp: EmbeddedIdentityProvider) -> None:
    for claims in LIES.values():
        with pytest.MonkeyPatch.context() as monkeypatch:
            lie(monkeypatch, idp, **claims)
            await refused(page, await page.approve(await page.begin(), "ann"), 401)
    with pytest.MonkeyPatch.context() as monkeypatch:
        lie(monkeypatch, idp, sid="ended")
        callback = await page.approve(await page.begin(), "ann")
        await page.bff.engine.revocations.revoke_provider_session("ended")
        await refused(page, callback, 401)
    assert await page.bff.engine.sessions.of_user("ann") == []
    with pytest.MonkeyPatch.context() as monkeypatch:
        lie(monkeypatch, idp, sid=None)  # a provider need not name a session
        await page.bff.engine.revocations.revoke_session("None")
        await page.sign_in("ann")
    await page.sign_in("ann")
    assert await page.me() is not None


async def test_an_id_token_of_another_key_signs_nobody_in(
    page: Page,
    idp: EmbeddedIdentityProvider,
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
) -> None:
    other = settings.model_copy(update={"jwt_secret": None})
    monkeypatch.setattr(idp, "sign", EmbeddedIdentityProvider(other).sign)
    await refused(page, await page.approve(await page.begin(), "ann"), 401)


@pytest.mark.parametrize("seconds", [-60, 60])
async def test_clock_off_by_a_minute(
    page: Page, idp: EmbeddedIdentityProvider, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    now = int(time.time())
    lie(monkeypatch, idp, iat=now + seconds, exp=now + seconds + 30)
    await page.sign_in("ann")
    assert await page.me() is not None


async def test_provider_or_redis_away_at_each_step_of_the_sign_in(
    page: Page, idp: EmbeddedIdentityProvider, caplog: pytest.LogCaptureFixture
) -> None:
    for path in ("/keys", "/token", "/userinfo"):
        for how in ("no connection", "500", "nonsense"):
            with pytest.MonkeyPatch.context() as monkeypatch:
                forget_documents(page.bff)
                url = await page.begin("/x")
                broken = break_path(monkeypatch, idp, path, how)
                response = await page.http.get(await page.approve(url, "ann"))
            assert response.status_code == 503, (path, how)
            assert "/auth/login?return_to=/x" in response.text
            assert broken.count, (path, how)
    forget_documents(page.bff)
    with pytest.MonkeyPatch.context() as monkeypatch:

        async def away(_: object) -> None:
            raise ConnectionError

        monkeypatch.setattr(page.bff.engine.sessions, "create", away)
        response = await page.http.get(await page.approve(await page.begin("/x"), "ann"))
        assert response.status_code == 503
        assert "/auth/login?return_to=/x" in response.text
    assert caplog.messages.count("sign-in failed: Redis unavailable") == 1
    await page.sign_in("ann")
    assert await page.me() is not None


async def test_provider_away_before_the_sign_in(
    page: Page, idp: EmbeddedIdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_path(monkeypatch, idp, "/.well-known/openid-configuration", "no connection")
    response = await page.http.get("/auth/login?return_to=/x")
    assert response.status_code == 503
    assert "/auth/login?return_to=/x" in response.text


async def test_provider_away_at_the_sign_out(
    page: Page, idp: EmbeddedIdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await page.sign_in("ann")
    sessions, provider = page.bff.engine.sessions, page.sign_ins.provider
    tokens = await sessions.tokens(page.key)
    assert tokens is not None
    await sessions.write_tokens(page.key, replace(tokens, refresh_token=None))
    assert (await page.fetch("POST", "/auth/logout")).status_code == 200
    assert not idp._use(tokens.access_token), "it is revoked where there is no refresh token"
    break_path(monkeypatch, idp, "/revoke", "no connection")
    for owner, missing in ((None, ""), (sessions, "tokens"), (provider, "end_session_url")):
        await page.sign_in("ann")
        with monkeypatch.context() as patch:
            if owner is not None:
                patch.setattr(owner, missing, nothing)
            answer = await page.fetch("POST", "/auth/logout")
        assert answer.status_code == 200
        assert (answer.json()["redirect_to"] == "/") is (owner is not None)
        assert await page.me() is None


async def nothing(*_: object) -> None: ...


def forget_documents(bff: RunningBff) -> None:
    """The keys are fetched again, at once although a fetch has just failed."""
    assert bff.engine.sign_ins is not None
    bff.engine.sign_ins.provider._tokens = None


class Broken:
    """A path that does not answer as it should."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.count = 0


def break_path(
    monkeypatch: pytest.MonkeyPatch, idp: EmbeddedIdentityProvider, path: str, how: str
) -> Broken:
    respond, broken = idp._respond, Broken(path)

    async def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path != broken.path:
            return await respond(request)
        broken.count += 1
        if how == "no connection":
            raise httpx2.ConnectError("refused")
        return httpx2.Response(500) if how == "500" else httpx2.Response(200, text="<html>")

    monkeypatch.setattr(idp, "_respond", answer)
    return broken


SPELLINGS = [
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "https://evil.example",
    "https:evil.example",
    "javascript:alert(1)",
    "/\t/evil.example",
    "/\n/evil.example",
    " //evil.example",
    "evil.example",
    "",
    "http:///evil.example",
    "/é",
    "//evil.example%2f..",
    "//[",
    "/ a",
    "/\x7f",
    "/" + "x" * 1000,
]


async def test_open_redirect_in_every_spelling(page: Page) -> None:
    for return_to in SPELLINGS:
        response = await page.http.get("/auth/login", params={"return_to": return_to})
        assert response.status_code == 422, return_to
    for path in ("/", "/a?b=//c", "/a/../b", "/%2F%2Fevil.example", "/#x", "/" + "x" * 999):
        await page.begin(path)


def test_cookie_tossing_from_a_sister_domain(settings: Settings) -> None:
    """A sister domain can set cookies of the plain name, but none with the prefix `__Host-`. Over
    https, and in production in any case, only the latter counts."""

    def read(scheme: str, cookie: str, **changes: Any) -> str | None:
        scope = {
            "type": "http",
            "scheme": scheme,
            "server": ("app.example.com", 443),
            "path": "/",
            "headers": [(b"cookie", cookie.encode())],
        }
        return SessionCookie(settings.model_copy(update=changes)).read(Request(scope))

    assert read("https", "bff=tossed") is None
    assert read("https", "bff=tossed; __Host-bff=good") == "good"
    assert read("http", "bff=tossed", environment="production") is None
    assert read("http", "bff=plain") == "plain"
    assert read("https", "bff=tossed; bff=twice; __Host-bff=good; bff=__Host-bff") == "good"
    with pytest.raises(Problem, match="two cookies __Host-bff"):
        read("https", "__Host-bff=good; __Host-bff=other")


@pytest.mark.parametrize("is_secure", [True, False])
def test_scripts_and_other_sites_cannot_use_the_cookie_when_it_is_set_and_deleted(
    settings: Settings, is_secure: bool
) -> None:
    """Browsers delete a cookie with the prefix `__Host-` only if the flags are right, too."""
    scheme = "https" if is_secure else "http"
    request = Request(
        {"type": "http", "scheme": scheme, "server": ("a", 1), "path": "/", "headers": []}
    )
    name = "__Host-bff" if is_secure else "bff"
    flags = {"httponly", "path=/", "samesite=strict"} | ({"secure"} if is_secure else set())
    cookie, key = SessionCookie(settings), SessionKey.new()
    response = Response()
    cookie.set(request, response, key)
    cookie.delete(request, response)
    given, deleted = [
        [part.strip().lower() for part in line.split(";")]
        for line in response.headers.getlist("set-cookie")
    ]
    assert (given[0], set(given[1:])) == (f"{name}={key.cookie}".lower(), flags)
    assert deleted[0].startswith(f'{name.lower()}=""')
    assert {"max-age=0", *flags} <= set(deleted)


async def test_sign_ins_that_were_begun_do_not_fill_the_browser(page: Page) -> None:
    for _ in range(30):
        await page.begin()
        assert len([name for name in page.http.cookies if name.startswith("bff-login-")]) <= 9
    await page.sign_in()


@pytest.mark.parametrize(("given", "issuer"), [(None, "memory://"), ("", None)])
def test_bff_dev_takes_the_embedded_provider_unless_it_is_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str | None, issuer: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("OIDC_ISSUER", "ALLOWED_ORIGINS", "DRAIN_SECONDS", "LOG_FORMAT"):
        monkeypatch.setenv(name, "")  # restored after the test, which changes them
        monkeypatch.delenv(name)
    variables = {"ENVIRONMENT": "development", "JWT_SECRET": "s", "REDIS_URL": "memory://"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if given is not None:
        monkeypatch.setenv("OIDC_ISSUER", given)
    served: list[Settings] = []
    monkeypatch.setattr("bff.cli.run", lambda settings, **_: served.append(settings))
    done = CliRunner().invoke(main, ["dev", "--port", "0"])
    assert done.exit_code == 0, done.output
    assert [settings.oidc_issuer for settings in served] == [issuer]


async def test_the_embedded_provider_refuses_tokens_that_are_none(
    idp: EmbeddedIdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity_provider, "_MAX_USED", 2)
    async with httpx2.AsyncClient(transport=idp.transport(), base_url="http://id") as http:
        headers = {"Authorization": "Bearer x"}
        assert (await http.get("/userinfo", headers=headers)).status_code == 401
        assert (await http.get("/unknown")).status_code == 404
        for _ in range(5):
            answer = await http.post("/token", data={"grant_type": "refresh_token"})
            assert (answer.status_code, answer.json()) == (400, {"error": "invalid_grant"})
    assert idp.token_requests == ["refresh_token"] * 2
