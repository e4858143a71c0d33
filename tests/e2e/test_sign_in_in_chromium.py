"""A real browser signs in, reloads, has two tabs and signs out. No script of the page sees a token.

Chromium takes `http://127.0.0.1` for trustworthy, so cookies are those of production here.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import websockets
from bff.auth.session_key import SessionKey
from bff.settings import Settings
from bff.testing import RunningBff, run

from scripts.picture import Browser, answer_of, running
from tests import browsers
from tests.engine.echo import create_app
from tests.servers.server import free_port

pytestmark = pytest.mark.long

_OPEN = "document.getElementById('state')?.className === 'open'"
_CLOSED = "document.getElementById('state')?.className === 'closed'"
_OPEN_AS_BOB = "document.getElementById('state')?.textContent === 'open as bob'"
_FORM = "document.querySelector('form[method=post] button') !== null"
_SEEN_BY_SCRIPTS = """JSON.stringify([
  document.cookie, document.documentElement.outerHTML, {...localStorage}, {...sessionStorage},
  Object.getOwnPropertyNames(window).map((name) => { try { return String(window[name]); }
    catch { return ""; } }),
])"""


class Tab(Browser):
    """A tab that keeps what its page has loaded."""

    def __init__(self, connection: websockets.ClientConnection) -> None:
        super().__init__(connection)
        self.bodies: list[str] = []

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        await self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        finished: list[str] = []
        async with asyncio.timeout(60):
            while True:
                answer = json.loads(await self._connection.recv())
                if answer.get("method") == "Network.loadingFinished":
                    finished.append(answer["params"]["requestId"])
                if answer.get("id") == number:
                    break
        for request_id in finished:
            body = await self.ask("Network.getResponseBody", requestId=request_id)
            self.bodies.append(body.get("body", ""))
        result: dict[str, Any] = answer.get("result", {})
        return result


@pytest.fixture
def chromium(tmp_path: Path) -> Iterator[str]:
    """The address of a Chromium's debugger."""
    program = browsers.chromium()
    port = free_port()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    flags += [f"--user-data-dir={tmp_path}/profile", f"--remote-debugging-port={port}"]
    with running([program, *flags, "about:blank"], stderr=subprocess.DEVNULL):
        answer_of(f"http://127.0.0.1:{port}/json/version")
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
async def bff(tmp_path: Path) -> AsyncIterator[RunningBff]:
    listener = socket.create_server(("127.0.0.1", 0))
    settings = Settings(
        _env_file=None,
        environment="development",
        redis_url="memory://",
        amqp_url="memory://",
        database_url=f"sqlite+aiosqlite:///{tmp_path}/test.sqlite3",
        jwt_secret="a-secret-for-tests-only-0123456789abcdef",
        oidc_issuer="memory://",
        allowed_origins=f"http://127.0.0.1:{listener.getsockname()[1]}",
    )
    app = create_app(settings)
    for cookie in (app.state.bff.session_cookie, app.state.bff.authenticator._session_cookie):
        cookie._always_secure = True
    async with run(app, listener=listener) as running_bff:
        yield running_bff


@asynccontextmanager
async def tab_of(chromium: str, url: str) -> AsyncIterator[Tab]:
    """A new tab at a URL."""
    async with httpx2.AsyncClient(trust_env=False) as http:
        page = (await http.put(f"{chromium}/json/new?about:blank")).json()
    async with websockets.connect(page["webSocketDebuggerUrl"], max_size=None) as connection:
        tab = Tab(connection)
        await tab.ask("Network.enable")
        await tab.ask("Page.enable")
        await tab.ask("Page.navigate", url=url)
        await tab.wait_for("document.readyState === 'complete' && location.pathname === '/'")
        yield tab


async def test_a_browser_signs_in_reloads_has_two_tabs_and_signs_out(
    bff: RunningBff, chromium: str
) -> None:
    home = f"http://{bff.address}/"
    async with tab_of(chromium, home) as first:
        await first.run("document.getElementById('sign-in').click()")
        await first.wait_for(_FORM)
        await first.run("document.querySelector('form[method=post] button').click()")
        await first.wait_for(_OPEN)

        cookies = (await first.ask("Network.getCookies"))["cookies"]
        (cookie,) = [one for one in cookies if one["name"] == "__Host-bff"]
        assert cookie["httpOnly"]
        assert cookie["secure"]
        assert cookie["sameSite"] == "Strict"
        assert cookie["path"] == "/"
        assert not [one for one in cookies if "login" in one["name"]]

        await first.ask("Page.reload")
        await first.wait_for(_OPEN)
        async with tab_of(chromium, home) as second:
            await second.wait_for(_OPEN)
            await sign_out(bff, first, second, cookie["value"])


async def sign_out(bff: RunningBff, first: Tab, second: Tab, cookie: str) -> None:
    """Sign out in the first tab, which meanwhile connects with a development token; nothing that
    was seen so far contains a secret."""
    key = SessionKey.parse(cookie)
    assert key is not None
    tokens = await bff.engine.sessions.tokens(key)
    assert tokens is not None
    secrets = [key.secret, tokens.access_token, tokens.refresh_token or "x", tokens.id_token]
    seen = [await tab.run(_SEEN_BY_SCRIPTS) for tab in (first, second)]

    await first.run("document.querySelector('#connect [name=user]').value = 'bob'")
    await first.run("document.querySelector('#connect .main').click()")
    await first.wait_for(_OPEN_AS_BOB)
    await first.run("document.getElementById('sign-out').click()")
    await second.wait_for(_CLOSED)
    await first.wait_for("document.readyState === 'complete'")
    await first.wait_for(_CLOSED)
    assert await second.run("document.getElementById('log').textContent.includes('4505')")
    seen += first.bodies + second.bodies
    assert any('"user_id":"ann"' in text for text in first.bodies)
    for secret in secrets:
        assert not any(secret in text for text in seen)
    assert await bff.engine.sessions.load(key) is None
