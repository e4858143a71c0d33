"""Attacks on the sign-in, each by name, at both providers. Those of a provider: test_lies.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from urllib.parse import parse_qsl, urlencode, urlsplit

from bff.auth.session_key import SessionKey
from bff.testing import RunningBff

from tests.engine.sign_in.conftest import Page, Start, audit_of

Pages = Callable[[RunningBff], Page]


def changed(url: str, **changes: str | None) -> str:
    """A URL with other parameters; None removes one."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query)) | changes
    kept = {name: value for name, value in query.items() if value is not None}
    return parts._replace(query=urlencode(kept)).geturl()


async def refused(page: Page, callback: str, status: int) -> None:
    response = await page.http.get(callback)
    assert response.status_code == status, response.text
    assert "bff" not in page.http.cookies
    assert await page.me() is None


async def test_state_that_was_not_sent(page: Page) -> None:
    callback = await page.approve(await page.begin(), "ann")
    for state in (None, "", "x" * 43):
        await refused(page, changed(callback, state=state), 400)
    entries = await audit_of(page.bff, action="sign_in")
    assert {(one.outcome, one.actor_id, one.address) for one in entries} == {
        ("refused", None, "127.0.0.1")
    }
    assert len(entries) == 3


async def test_mixed_up_issuer(page: Page) -> None:
    for issuer in (None, "https://evil.example", ""):
        callback = await page.approve(await page.begin(), "ann")
        await refused(page, changed(callback, iss=issuer), 401)
    (entry, *_) = await audit_of(page.bff, action="sign_in", outcome="refused")
    assert entry.details == {"reason": "the answer names another issuer"}


async def test_replayed_code(page: Page) -> None:
    callback = await page.approve(await page.begin(), "ann")
    flow = {c.name: c.value for c in page.http.cookies.jar if c.name.startswith("bff-login")}
    assert (await page.http.get(callback)).status_code == 200
    page.http.cookies.delete("bff")
    await refused(page, callback, 400)
    for name, value in flow.items():  # an attacker who has stolen the cookie of the flow as well
        page.http.cookies.set(name, value or "")
    await refused(page, callback, 401)


async def test_code_of_another_sign_in(page: Page) -> None:
    """PKCE: a code that was injected does not fit the verifier of this sign-in."""
    stolen = dict(parse_qsl(urlsplit(await page.approve(await page.begin(), "bob")).query))["code"]
    callback = await page.approve(await page.begin(), "ann")
    await refused(page, changed(callback, code=stolen), 401)


async def test_login_csrf(signing_bff: RunningBff, pages: Pages) -> None:
    """A victim is led to the callback of the attacker's sign-in."""
    attacker, victim = pages(signing_bff), pages(signing_bff)
    callback = await attacker.approve(await attacker.begin(), "mallory")
    await refused(victim, callback, 400)
    await victim.begin()  # with a sign-in of the victim's own under way
    await refused(victim, callback, 400)


async def test_session_fixation(signing_bff: RunningBff, pages: Pages) -> None:
    """A victim signs in while the browser has a session that the attacker knows."""
    attacker, victim = pages(signing_bff), pages(signing_bff)
    await attacker.sign_in("mallory")
    victim.cookie = attacker.cookie
    await victim.sign_in("ann")
    assert victim.cookie != attacker.cookie
    assert await attacker.me() is None
    me = await victim.me()
    assert me is not None
    assert me["user_id"] == "ann"
    attacker.cookie = replace(victim.key, secret=SessionKey.new().secret).cookie
    await attacker.begin()
    await attacker.sign_in("mallory")
    assert await victim.me() is not None, "who knows only the id of a session ends nothing"


async def test_a_user_who_cancels_is_told_so(page: Page) -> None:
    callback = await page.approve(await page.begin(), "ann")
    await refused(page, changed(callback, code=None, error="access_denied"), 401)


async def test_an_address_cannot_make_the_bff_flood_the_provider(start: Start) -> None:
    """Each sign-in may cost a request to the provider (RFC 9126)."""
    async with start(max_handshakes_per_second_per_address=1) as bff, bff.http() as http:
        assert (await http.get("/auth/login")).status_code == 303
        for path, status in (("/auth/login", 303), ("/auth/callback?state=x", 400)):
            for _ in range(100):
                if (answer := await http.get(path)).status_code != status:
                    break
            assert answer.status_code == 429, path
            assert int(answer.headers["retry-after"]) >= 1
