"""Make `docs/picture.png` from the real thing: `make demo` in a terminal, and the page in Chromium.

    python scripts/picture.py

It bakes the default project, runs `bff dev`, drives a headless Chromium over the Chrome DevTools
Protocol, and takes a screenshot of both side by side. Chromium must be installed.
"""

from __future__ import annotations

import asyncio
import base64
import html
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx2
import websockets

ROOT: Final = Path(__file__).resolve().parent.parent
PICTURE: Final = ROOT / "docs" / "picture.png"
PAGE_SIZE: Final = (1000, 860)
PICTURE_SIZE: Final = (1660, 900)
START_SECONDS: Final = 60

_STEPS = (
    "document.querySelector('#connect button').click()",
    "document.querySelector('#topics button').click()",
    "document.querySelector('#request button').click()",
)
_OPEN = "document.getElementById('state').className === 'open'"
_LINES = "document.querySelectorAll('#log li').length"

_SCENE = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; background: #e8eaee; display: flex; gap: 20px; padding: 20px; height: 860px;
  font: 15px system-ui, sans-serif; box-sizing: content-box; }}
.terminal {{ width: 600px; background: #16181d; color: #d7dae0; border-radius: 10px; padding: 20px;
  font: 13px/1.6 ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre-wrap;
  overflow: hidden; box-sizing: border-box; }}
.terminal b {{ color: #7ee2a8; font-weight: 600; }}
img {{ width: 1000px; height: 860px; border-radius: 10px; object-fit: cover; }}
</style><div class="terminal">{terminal}</div><img src="data:image/png;base64,{page}">"""


_HIDDEN: Final = re.compile("alembic|/health/ready")
"""Lines of the terminal that a user would not see, or that this script causes."""


class Browser:
    """A page in a headless Chromium."""

    def __init__(self, connection: websockets.ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command of the DevTools Protocol; its result."""
        number = next(self._ids)
        await self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        async with asyncio.timeout(START_SECONDS):
            while True:
                answer = json.loads(await self._connection.recv())
                if answer.get("id") == number:
                    result: dict[str, Any] = answer["result"]
                    return result

    async def run(self, script: str) -> Any:
        answer = await self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        return answer["result"].get("value")

    async def wait_for(self, condition: str) -> None:
        async with asyncio.timeout(START_SECONDS):
            while not await self.run(condition):
                await asyncio.sleep(0.1)

    async def open(self, url: str, size: tuple[int, int]) -> None:
        width, height = size
        await self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        await self.ask("Page.navigate", url=url)
        await self.wait_for(
            f"location.href === {json.dumps(url)} && document.readyState === 'complete'"
        )

    async def picture(self) -> bytes:
        return base64.b64decode((await self.ask("Page.captureScreenshot", format="png"))["data"])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)


def answer_of(url: str) -> httpx2.Response:
    """The first good answer.

    Raises:
        TimeoutError: there was none in time.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with suppress(httpx2.TransportError):
            answer = httpx2.get(url, trust_env=False)
            if answer.is_success:
                return answer
        time.sleep(0.2)
    raise TimeoutError(url)


async def take(page_url: str, debugger: str, terminal: Path) -> None:
    async with websockets.connect(debugger, max_size=None) as connection:
        browser = Browser(connection)
        await browser.open(page_url, PAGE_SIZE)
        for number, step in enumerate(_STEPS):
            seen = await browser.run(_LINES)
            await browser.run(step)
            await browser.wait_for(_OPEN if number == 0 else f"{_LINES} > {seen}")
        await browser.wait_for(f"{_LINES} >= 6")
        page = base64.b64encode(await browser.picture()).decode()
        with tempfile.TemporaryDirectory() as folder:
            scene = Path(folder, "scene.html")
            text = _as_terminal(terminal.read_text(encoding="utf-8"))
            scene.write_text(_SCENE.format(terminal=text, page=page), encoding="utf-8")
            await browser.open(scene.as_uri(), PICTURE_SIZE)
            PICTURE.write_bytes(await browser.picture())


def _as_terminal(output: str) -> str:
    """What the terminal shows, without colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", output)
    lines = [line[:110] for line in plain.splitlines() if not _HIDDEN.search(line)]
    shown = html.escape("\n".join(lines[:26]))
    return f"<b>$ make demo</b>\n{shown}"


def main() -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("chromium is not installed; on Debian: apt install chromium")
    subprocess.run([sys.executable, "scripts/bake.py", "build"], cwd=ROOT, check=True)
    project = ROOT / "build" / "my-bff"
    port, debugging = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder, Path(folder, "terminal").open("wb") as output:
        command = [sys.executable, "-m", "bff.cli", "dev", "--no-reload", "--port", str(port)]
        environment = os.environ | {"PYTHONPATH": str(project), "PYTHONUNBUFFERED": "1"}
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--hide-scrollbars",
        ]
        flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        flags += [f"--user-data-dir={folder}/profile", f"--remote-debugging-port={debugging}"]
        with (
            running(command, cwd=project, env=environment, stdout=output, stderr=output),
            running([chromium, *flags, "about:blank"], stderr=subprocess.DEVNULL),
        ):
            answer_of(f"http://127.0.0.1:{port}/health/ready")
            pages = answer_of(f"http://127.0.0.1:{debugging}/json").json()
            debugger = next(one for one in pages if one["type"] == "page")["webSocketDebuggerUrl"]
            asyncio.run(take(f"http://127.0.0.1:{port}/", debugger, Path(folder, "terminal")))
    print(f"Wrote {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
