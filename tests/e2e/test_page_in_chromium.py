"""The development page in a real Chromium: sign-in, request, topic, broadcast, kick, restart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.bake import PROJECT, ROOT
from tests import browsers, node
from tests.baked import environment
from tests.e2e.processes import Program
from tests.e2e.waiting import until_true
from tests.servers.server import free_port

SCHEMES = ("light", "dark")
REFUSED = "WebSocket connection to "
"""Chromium's line about a handshake that fails, as one does while the server stops."""
COMMAND_SECONDS = 90
"""The driver gives each command 60 s."""
SIZES = {"wide": (1280, 900), "narrow": (390, 844)}


class Page:
    """A tab of Chromium."""

    def __init__(self, url: str) -> None:
        chromium = browsers.chromium()
        script = node.beside_packages(node.HERE / "page.mjs", node.packages())
        self._process = subprocess.Popen(
            ["node", script, chromium, url],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def do(self, command: str, **options: Any) -> Any:
        """Run a command of `page.mjs` and return its value."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"command": command, **options}) + "\n")
        self._process.stdin.flush()
        deadline = threading.Timer(COMMAND_SECONDS, self._process.send_signal, [signal.SIGINT])
        deadline.start()
        line = self._process.stdout.readline()
        deadline.cancel()
        assert line, f"the driver has ended, or did not answer within {COMMAND_SECONDS} s"
        answer = json.loads(line)
        assert "error" not in answer, (command, options, answer)
        return answer["value"]

    def click(self, selector: str) -> None:
        self.do("click", selector=selector)

    def fill(self, selector: str, value: str) -> None:
        self.do("fill", selector=selector, value=value)

    def sees(self, text: str, selector: str = "#log li") -> None:
        """Wait until an element has this text."""
        self.do("wait", selector=selector, text=text)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


class Server:
    """The default app in development, with embedded engines, on a port that it keeps."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.program = self.start()

    def start(self) -> Program:
        self.program = Program(
            "page-server",
            [sys.executable, "-m", "bff.cli", "dev", "--no-reload", "--port", str(self._port)],
            cwd=ROOT / PROJECT,
            logs=self._folder,
            variables={
                "APP_NAME": "page",
                "ENVIRONMENT": "development",
                "REDIS_URL": "memory://",
                "AMQP_URL": "memory://",
                "DATABASE_URL": f"sqlite+aiosqlite:///{self._folder}/page.sqlite3",
                "JWT_SECRET": "a-secret-of-the-page-0123456789abcdef",
                "PYTHONDONTWRITEBYTECODE": "1",
            },
        )
        until_true(
            lambda: "Application startup complete" in self.program.output, "the server serves", 60
        )
        return self.program


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.program.close()


@pytest.fixture
def page(server: Server) -> Iterator[Page]:
    page = Page(server.url)
    try:
        page.do("view", width=1280, height=900, scheme="light")
        page.do("open")
        yield page
    finally:
        page.close()


def test_a_developer_tries_everything_on_the_page(
    server: Server, page: Page, tmp_path: Path
) -> None:
    page.sees("Needs the scope orders.", "#method-hint")
    page.click("#connect .main")
    page.sees("open as ann", "#state")

    page.fill("#request [name=method]", "orders.place")
    assert "Needs the scope orders." in page.do("text", selector="#method-hint")
    page.fill("#params [name=item]", "green tea")
    page.fill("#params [name=quantity]", "3")
    page.click("#request .main")
    page.sees('"item": "green tea"', ".answer")
    page.sees("order.updated", ".event")
    page.sees("1", "#events .count")

    page.fill("#params [name=quantity]", "0")
    page.click("#request .main")  # the form would refuse it: min is in words only
    page.sees("invalid_params", ".error")
    page.sees("The work was not started; a retry does not help.", ".error")

    page.fill("#topics [name=declared]", "orders.latest")
    page.click("#topics .main")
    page.sees("subscribed")
    page.fill("#params [name=quantity]", "1")
    page.click("#request .main")
    page.sees("orders.latest", ".event")

    page.click("#broadcast .main")
    page.sees("notice", ".event")

    page.click("#disconnect .main")
    page.sees("4504 REVOKED: An administrator closed the connection.")
    page.sees("closed", "#state")

    page.click("#connect .main")
    page.sees("open as ann", "#state")
    page.click("#request .main")
    page.sees("user/", "#positions")
    assert page.do("faults") == []
    server.program.close()
    page.sees("next attempt at", "#next")
    page.sees("Next attempt in", ".state")
    screenshots(page, tmp_path)
    server.start()
    page.sees("open as ann", "#state")
    page.sees("are lost", ".gap")
    assert [one for one in page.do("faults") if not one.startswith(REFUSED)] == []


def screenshots(page: Page, folder: Path) -> None:
    """At each size and in each colour scheme; nothing is wider than the window."""
    folder = Path(os.environ.get("TEST_SCREENSHOTS", folder))
    for name, (width, height) in SIZES.items():
        for scheme in SCHEMES:
            page.do("view", width=width, height=height, scheme=scheme)
            page.do("shot", path=str(folder / f"page-{name}-{scheme}.png"))
            assert page.do("overflow") <= 0, name
