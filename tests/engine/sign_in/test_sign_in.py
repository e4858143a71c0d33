"""Sign-in, session and sign-out, at the embedded provider and at a certified one."""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urljoin

import pytest
from bff.auth.oidc.errors import GrantRefused
from bff.settings import Settings
from bff.testing import RunningBff, run

from tests.engine.echo import create_app
from tests.engine.sign_in.conftest import Page, audit_of, parameters


async def test_nobody_is_signed_in_at_first(page: Page) -> None:
    assert await page.me() is None


async def test_a_user_signs_in_and_returns_to_the_page(page: Page) -> None:
    response = await page.sign_in("ann", "/orders?open=1#top")
    assert 'content="0;url=/orders?open=1#top"' in response.text
    me = await page.me()
    assert me is not None
    assert (me["user_id"], me["scopes"]) == ("ann", ["orders"])
    assert me["expires_at"] > time.time() + 3600
    (entry,) = await audit_of(page.bff)
    assert (entry.action, entry.outcome, entry.address) == ("sign_in", "done", "127.0.0.1")
    assert (entry.actor_id, entry.user_id, entry.session_id) == ("ann", "ann", page.key.sid)


async def test_the_request_has_state_nonce_and_pkce(page: Page) -> None:
    first, second = [await page.begin() for _ in range(2)]
    assert first != second
    asked = parameters(first)
    if "request_uri" in asked:  # pushed (RFC 9126): nothing of it is in the URL
        assert asked.keys() == {"client_id", "request_uri"}
    else:
        assert asked["code_challenge_method"] == "S256"
        assert asked["response_type"] == "code"
        assert asked["state"]
        assert asked["nonce"]
        assert asked["code_challenge"]


async def test_the_cookie_of_a_session_is_closed_to_scripts_and_other_sites(page: Page) -> None:
    response = await page.sign_in()
    (cookie,) = [c for c in response.headers.get_list("set-cookie") if c.startswith("bff=")]
    flags = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert flags == {"httponly", "path=/", "samesite=strict"}


async def test_two_tabs_sign_in_at_once(page: Page) -> None:
    first, second = [await page.begin(f"/{number}") for number in (1, 2)]
    second_callback = await page.approve(second, "ann")
    first_callback = await page.approve(first, "ann")
    for callback, path in ((first_callback, "/1"), (second_callback, "/2")):
        response = await page.http.get(callback)
        assert response.status_code == 200
        assert f"url={path}" in response.text
    assert await page.me() is not None


async def test_a_session_opens_a_socket(page: Page) -> None:
    await page.sign_in("ann")
    async with page.socket() as browser:
        hello = (await browser.receive())["payload"]["event"]
        assert hello["user_id"] == "ann"
        reply = await browser.request("echo", "say", text="hi")
        assert reply["result"]["user_id"] == "ann"


async def test_a_sign_out_ends_the_session_here_and_at_the_provider(page: Page) -> None:
    await page.sign_in()
    cookie = page.cookie
    response = await page.fetch("POST", "/auth/logout")
    assert response.status_code == 200, response.text
    assert "bff" not in page.http.cookies
    assert await page.me() is None
    page.cookie = cookie
    assert await page.me() is None
    path = response.json()["redirect_to"]
    assert path.startswith("/auth/logout?ticket=")
    navigated = await page.http.get(path)
    assert navigated.status_code == 303
    at_provider = urljoin(page.origin, navigated.headers["location"])
    assert parameters(at_provider)["id_token_hint"]
    assert (await page.http.get(at_provider)).status_code in (200, 303)
    again = await page.http.get(path)
    assert again.headers["location"] == "/"


async def test_a_sign_out_revokes_the_refresh_token_at_the_provider(page: Page) -> None:
    await page.sign_in()
    tokens = await page.bff.engine.sessions.tokens(page.key)
    assert tokens is not None
    assert tokens.refresh_token is not None
    assert (await page.fetch("POST", "/auth/logout")).status_code == 200
    with pytest.raises(GrantRefused):
        await page.sign_ins.provider.refresh(tokens.refresh_token)


async def test_redirects_contain_the_root_path_of_the_app_or_the_address_in_the_settings(
    settings: Settings,
) -> None:
    app = create_app(settings)
    app.root_path = "/bff"
    async with run(app) as bff, bff.http() as http:
        response = await http.get("/auth/logout?ticket=used")
    assert response.headers["location"] == "/bff/"
    address = "https://app.example/bff/auth/callback"
    changes = {"oidc_issuer": "memory://", "oidc_redirect_uri": address}
    async with run(create_app(settings.model_copy(update=changes))) as bff, bff.http() as http:
        response = await http.get("/auth/login")
    assert parameters(response.headers["location"])["redirect_uri"] == address


async def test_a_user_sees_the_own_sessions_and_ends_one(
    signing_bff: RunningBff, pages: Callable[[RunningBff], Page]
) -> None:
    laptop, phone, bobs = (pages(signing_bff) for _ in range(3))
    await laptop.sign_in("ann")
    await phone.sign_in("ann")
    await bobs.sign_in("bob")
    sessions = (await laptop.fetch("GET", "/auth/sessions")).json()
    assert [session["current"] for session in sessions].count(True) == 1
    assert len(sessions) == 2
    (other,) = [session["id"] for session in sessions if not session["current"]]
    foreign = await bobs.fetch("DELETE", f"/auth/sessions/{other}")
    assert foreign.status_code == 404
    assert (await laptop.fetch("DELETE", f"/auth/sessions/{other}")).status_code == 204
    assert await phone.me() is None
    assert await laptop.me() is not None


async def test_a_user_signs_out_everywhere(
    signing_bff: RunningBff, pages: Callable[[RunningBff], Page]
) -> None:
    laptop, phone, bobs = (pages(signing_bff) for _ in range(3))
    await laptop.sign_in("ann")
    await phone.sign_in("ann")
    await bobs.sign_in("bob")
    response = await laptop.fetch("POST", "/auth/logout?everywhere=true")
    assert response.status_code == 200
    assert [await p.me() for p in (laptop, phone)] == [None, None]
    assert await bobs.me() is not None
