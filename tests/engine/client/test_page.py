"""The development page: served in development only, with a strict content security policy."""

from __future__ import annotations

import posixpath
import re

import httpx2
import pytest
from bff.settings import Settings

from tests.engine.echo import create_app


@pytest.fixture
def development(settings: Settings) -> Settings:
    engines = {"redis_url": "memory://", "amqp_url": "memory://"}
    return settings.model_copy(update={"environment": "development", **engines})


def browse(settings: Settings) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(create_app(settings))
    return httpx2.AsyncClient(transport=transport, base_url="http://localhost:8000")


async def _modules(browser: httpx2.AsyncClient, path: str) -> dict[str, str]:
    """A module and everything that it imports, by path."""
    modules: dict[str, str] = {}
    waiting = [path]
    while waiting:
        path = waiting.pop()
        response = await browser.get(path)
        assert response.status_code == 200, path
        assert response.headers["content-type"].startswith("text/javascript")
        modules[path] = response.text
        imported = re.findall(r'^(?:import|export) .*from "(.+)";$', response.text, re.MULTILINE)
        paths = (posixpath.normpath(posixpath.join(path, "..", name)) for name in imported)
        waiting += [each for each in paths if each not in modules]
    return modules


async def test_the_page_and_its_client_are_served(development: Settings) -> None:
    async with browse(development) as browser:
        page = await browser.get("/")
        own = await _modules(browser, "/development/main.js")
        modules = await _modules(browser, "/bff-client/bff-client.js")
        other = await browser.get("/bff-client/package.json")
    signing = development.model_copy(update={"oidc_issuer": "memory://"})
    async with browse(signing) as browser:
        with_sign_in = await browser.get("/")
    assert "<body data-sign-in>" in with_sign_in.text
    assert "<body>" in page.text
    documented = create_app(development).openapi()["paths"]
    assert not {"/", "/dev/token", "/development/{name}", "/bff-client/{name}"} & {*documented}
    assert page.headers["content-type"].startswith("text/html")
    assert "bff-client.js" in "".join(own.values())
    assert {"/development/main.js", "/development/forms.js"} <= set(own)
    assert any("export class BffClient" in text for text in modules.values())
    assert len(modules) > 10
    assert other.status_code == 404


async def test_the_page_allows_its_own_script_and_style_and_nothing_else(
    development: Settings,
) -> None:
    async with browse(development) as browser:
        page = await browser.get("/")
        own = await _modules(browser, "/development/main.js")
    policy = dict(
        part.split(" ", 1) for part in page.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert page.text.count("<script") == 1
    for forbidden in ("innerHTML", "http://", "https://", " style=", " onclick=", "<style"):
        assert forbidden not in page.text + "".join(own.values())


async def test_a_development_token_can_be_exchanged_for_a_ticket(development: Settings) -> None:
    async with browse(development) as browser:
        issued = await browser.post("/dev/token", json={"user": "ann", "scopes": ["orders"]})
        headers = {"Authorization": f"Bearer {issued.json()['token']}"}
        ticket = await browser.post("/auth/ticket", headers=headers)
    assert ticket.status_code == 200, ticket.text


async def test_without_a_secret_there_are_no_development_tokens(development: Settings) -> None:
    identity = {
        "jwt_secret": None,
        "jwks_url": "http://identity.invalid/keys",
        "jwt_algorithms": ("RS256",),
    }
    async with browse(development.model_copy(update=identity)) as browser:
        refused = await browser.post("/dev/token", json={"user": "ann"})
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", "/bff-client/bff-client.js"), ("POST", "/dev/token")]
)
async def test_outside_development_there_is_no_page(
    settings: Settings, method: str, path: str
) -> None:
    async with browse(settings) as browser:
        answer = await browser.request(method, path, json={"user": "ann", "scopes": ["admin"]})
    assert answer.status_code == 404
