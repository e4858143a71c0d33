"""BFFs that sign users in at the embedded provider and at a certified one, and a browser."""

from __future__ import annotations

import html
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, Protocol
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2
import pytest
from bff import RealtimeRouter
from bff.auth.oidc.sign_in import Authorize, SignIns
from bff.auth.session_key import SessionKey
from bff.settings import Settings
from bff.testing import RunningBff, run
from fastapi import APIRouter

from tests.engine.echo import create_app
from tests.servers.identity_provider import IdentityProviderServer

_XSRF = re.compile(r'name="xsrf" value="([^"]+)"')
_FORM = re.compile(r'<form[^>]*action="([^"]+)"')
_INPUT = re.compile(r'<input[^>]*name="prompt" value="([^"]+)"')


Start = Callable[..., Any]
"""Starts a BFF, with routers and changed settings."""


class Provider(Protocol):
    """An identity provider of the tests."""

    def client(self, origin: str, **metadata: Any) -> dict[str, Any]:
        """The settings of a BFF at this origin, which becomes a client of the provider."""

    async def approve(self, page: Page, url: str, user: str) -> str:
        """Sign a user in at the URL to which the BFF has sent the browser; the URL of the callback
        to which the provider sends it back."""

    def grants(self, bff: RunningBff, user: str) -> list[str]:
        """The grants that the token endpoint has given to a user."""


class Embedded:
    """`OIDC_ISSUER=memory://`. Users whose name begins with `admin` have the scope `admin`."""

    def client(self, origin: str, **metadata: Any) -> dict[str, Any]:
        return {"oidc_issuer": "memory://"}

    async def approve(self, page: Page, url: str, user: str) -> str:
        response = await page.http.get(url)
        assert response.status_code == 200, response.text
        scopes = "orders admin" if user.startswith("admin") else "orders"
        form = {"user": user, "scopes": scopes, "answer": "allow"}
        answered = await page.http.post(url, data=form)
        return str(answered.headers["location"])

    def grants(self, bff: RunningBff, user: str) -> list[str]:
        assert bff.engine.identity_provider is not None
        return bff.engine.identity_provider.token_requests


class Certified:
    """oidc-provider of npm."""

    def __init__(self, server: IdentityProviderServer) -> None:
        self.server = server

    def client(self, origin: str, **metadata: Any) -> dict[str, Any]:
        usual = {
            "redirect_uris": [f"{origin}/auth/callback"],
            "post_logout_redirect_uris": [f"{origin}/"],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "backchannel_logout_uri": f"{origin}/auth/backchannel-logout",
            "backchannel_logout_session_required": True,
        }
        client = self.server.register(**usual | metadata)
        settings = {
            "oidc_issuer": self.server.url,
            "oidc_client_id": client["client_id"],
            "oidc_scopes_claim": "roles",
        }
        if "client_secret" in client:
            settings["oidc_client_secret"] = client["client_secret"]
        return settings

    async def approve(self, page: Page, url: str, user: str) -> str:
        """Fill in the forms: to sign in, and to consent."""
        response = await page.http.get(url)
        while "/auth/callback" not in response.headers.get("location", ""):
            assert response.status_code in (200, 303), response.text
            if response.status_code == 303:
                response = await page.http.get(urljoin(url, response.headers["location"]))
                continue
            found = _FORM.search(response.text)
            prompt = _INPUT.search(response.text)
            assert found is not None, response.text
            assert prompt is not None, response.text
            form = {"prompt": prompt[1], "login": user, "password": "any"}
            response = await page.http.post(urljoin(url, html.unescape(found[1])), data=form)
        return str(response.headers["location"])

    def grants(self, bff: RunningBff, user: str) -> list[str]:
        return self.server.grants(user)

    async def sign_out(self, page: Page) -> None:
        """The user signs out at the provider, in a browser."""
        response = await page.http.get(f"{self.server.url}/session/end")
        xsrf = _XSRF.search(response.text)
        assert xsrf is not None, response.text
        form = {"xsrf": xsrf[1], "logout": "yes"}
        confirmed = await page.http.post(f"{self.server.url}/session/end/confirm", data=form)
        assert confirmed.status_code == 303, confirmed.text


class Page:
    """A browser, without scripts: it keeps cookies and navigates."""

    def __init__(self, bff: RunningBff, provider: Provider) -> None:
        self.bff = bff
        self.origin = f"http://{bff.address}"
        self.http = httpx2.AsyncClient(base_url=self.origin, timeout=20)
        self._provider = provider

    @property
    def sign_ins(self) -> SignIns:
        sign_ins = self.bff.engine.sign_ins
        assert sign_ins is not None
        return sign_ins

    async def begin(self, return_to: str = "/") -> str:
        """Navigate to the sign-in. Returns the URL of the provider."""
        response = await self.http.get("/auth/login", params={"return_to": return_to})
        assert response.status_code == 303, response.text
        return urljoin(self.origin, response.headers["location"])

    async def approve(self, url: str, user: str) -> str:
        """Sign in at the provider. Returns the URL of the callback."""
        return await self._provider.approve(self, url, user)

    def use(self, bff: RunningBff) -> None:
        """Send what follows to another instance, as a proxy would."""
        self.bff, self.origin = bff, f"http://{bff.address}"
        self.http.base_url = self.origin

    async def sign_in(self, user: str = "ann", return_to: str = "/") -> httpx2.Response:
        """Sign in. Returns the response of the callback."""
        callback = await self.approve(await self.begin(return_to), user)
        response = await self.http.get(callback)
        assert response.status_code == 200, response.text
        return response

    def fetch(self, method: str, path: str, **options: Any) -> Any:
        """A request as a script of the page sends it."""
        headers = {"X-BFF": "1"} | options.pop("headers", {})
        if method not in ("GET", "HEAD"):
            headers = {"Origin": self.origin} | headers
        return self.http.request(method, path, headers=headers, **options)

    async def me(self) -> dict[str, Any] | None:
        """`/auth/me`; None if nobody is signed in."""
        response = await self.fetch("GET", "/auth/me")
        assert response.status_code in (200, 401), response.text
        return response.json() if response.status_code == 200 else None

    async def expire_access_token(self) -> None:
        """The access token is too old from now on."""
        sessions = self.bff.engine.sessions
        tokens = await sessions.tokens(self.key)
        assert tokens is not None
        await sessions.write_tokens(self.key, replace(tokens, refresh_at=0, expires_at=0))

    @property
    def key(self) -> SessionKey:
        """The key of the session."""
        key = SessionKey.parse(self.cookie)
        assert key is not None
        return key

    @property
    def cookie(self) -> str:
        """The value of the session's cookie."""
        (value,) = [one.value for one in self.http.cookies.jar if one.name == "bff"]
        return value or ""

    @cookie.setter
    def cookie(self, value: str) -> None:
        self.http.cookies.set("bff", value, domain="127.0.0.1")

    def socket(self, **options: Any) -> Any:
        """A WebSocket that a script of the page opens; the hello is to be read."""
        headers = {"Origin": self.origin, "Cookie": f"bff={self.cookie}"}
        return self.bff.handshake("", headers, **options)


async def audit_of(bff: RunningBff, **query: Any) -> list[Any]:
    """The entries of the audit log, the newest first."""
    await bff.engine.audit._waiting.join()
    return list(await bff.engine.audit.read(**query))


def parameters(url: str) -> dict[str, str]:
    """The query of a URL."""
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}


@pytest.fixture(scope="session")
def certified() -> Iterator[IdentityProviderServer]:
    server = IdentityProviderServer().start()
    yield server
    server.remove()


@pytest.fixture(params=["embedded", "certified"])
def provider(request: pytest.FixtureRequest, redis_url: str) -> Provider:
    """Each provider in turn."""
    if request.param == "embedded":
        return Embedded()
    if not redis_url.startswith("redis://"):
        pytest.skip("TEST_REDIS_URL names no real Redis server: the provider runs beside one")
    return Certified(request.getfixturevalue("certified"))


@pytest.fixture
def start(settings: Settings, provider: Provider) -> Start:
    """Runs a BFF that signs users in at the provider. Several share Redis and the secrets."""
    registered: dict[str, Any] = {}

    @asynccontextmanager
    async def start(
        *routers: APIRouter | RealtimeRouter,
        authorize: Authorize | None = None,
        metadata: dict[str, Any] | None = None,
        listener: socket.socket | None = None,
        **changes: Any,
    ) -> AsyncIterator[RunningBff]:
        listener = listener or socket.create_server(("127.0.0.1", 0))
        origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if not registered:
            registered.update(provider.client(origin, **(metadata or {})))
        fields = settings.model_dump() | registered | {"allowed_origins": origin} | changes
        app = create_app(
            Settings(_env_file=None, **fields),
            *(router for router in routers if isinstance(router, RealtimeRouter)),
            http=[router for router in routers if isinstance(router, APIRouter)],
            authorize=authorize,
        )
        async with run(app, listener=listener) as running:
            yield running

    return start


@pytest.fixture
async def signing_bff(start: Start) -> AsyncIterator[RunningBff]:
    async with start() as running:
        yield running


@pytest.fixture
async def pages(provider: Provider) -> AsyncIterator[Callable[[RunningBff], Page]]:
    """Makes browsers."""
    async with AsyncExitStack() as stack:

        def make(bff: RunningBff) -> Page:
            page = Page(bff, provider)
            stack.push_async_callback(page.http.aclose)
            return page

        yield make


@pytest.fixture
async def page(signing_bff: RunningBff, pages: Callable[[RunningBff], Page]) -> Page:
    """A browser in which nobody is signed in."""
    return pages(signing_bff)


@pytest.fixture
def real_redis(redis_url: str) -> str:
    """The URL of a Redis that several instances share."""
    if not redis_url.startswith("redis://"):
        pytest.skip("TEST_REDIS_URL names no real Redis server")
    return redis_url
