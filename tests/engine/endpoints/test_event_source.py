"""`EventSource` by its own rules at `/events`: when it comes back, with what, and when it stops."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from bff.cluster.messenger import Messenger
from bff.connections import event_stream
from bff.connections.close_codes import CloseCode
from bff.testing import RunningBff, until
from bff.testing.clients import SECONDS

_FLAG = "--experimental-eventsource"


class Page:
    """What `EventSource` met, in order."""

    def __init__(self, output: asyncio.StreamReader) -> None:
        self._output = output

    async def meets(self, what: str) -> Any:
        """The next thing met must be this; of a message the frame, with its `lastEventId`."""
        async with asyncio.timeout(SECONDS):
            met = json.loads(await self._output.readline())
        assert met["met"] == what, met
        if what == "message":
            return json.loads(met["data"]) | {"last": met["id"]}
        return None


OpenPage = Callable[[str], AbstractAsyncContextManager[Page]]


@pytest.fixture
def open_page(bff: RunningBff) -> OpenPage:
    """Open `EventSource` with a cookie in a process of its own."""
    node = shutil.which("node")
    if node is None or subprocess.run([node, _FLAG, "-e", "0"], capture_output=True).returncode:
        pytest.skip("needs a Node that has EventSource")

    @asynccontextmanager
    async def run(token: str) -> AsyncIterator[Page]:
        process = await asyncio.create_subprocess_exec(
            *(str(node), "--no-warnings", _FLAG, str(Path(__file__).with_name("event_source.mjs"))),
            stdout=asyncio.subprocess.PIPE,
            env=os.environ
            | {"ADDRESS": f"http://{bff.address}/events", "COOKIE": f"Authorization={token}"},
        )
        assert process.stdout is not None
        try:
            yield Page(process.stdout)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    return run


@pytest.fixture
def messenger(bff: RunningBff) -> Messenger:
    sender: Messenger = bff.engine.messenger
    return sender


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "_COME_BACK", (0.3, 0.4))


@pytest.mark.usefixtures("quick")
async def test_it_comes_back_by_itself_and_misses_nothing(
    bff: RunningBff, open_page: OpenPage, messenger: Messenger
) -> None:
    async with open_page(bff.token("alice")) as page:
        await page.meets("open")
        await page.meets("message")
        first = await messenger.to_user("alice", "news", 1)
        assert str(first.id) in (await page.meets("message"))["last"]
        await messenger.close_user("alice", CloseCode.SLOW_CONSUMER)
        assert (await page.meets("message"))["payload"]["code"] == CloseCode.SLOW_CONSUMER
        await page.meets("error")
        await messenger.to_user("alice", "news", 2)
        await messenger.to_all("news", 3)
        await page.meets("open")
        hello = await page.meets("message")
        assert hello["payload"]["event"]["recovered"] == {"user": True, "all": True}
        missed = [await page.meets("message") for _ in range(2)]
        assert [frame["payload"]["event"] for frame in missed] == [2, 3]
        await messenger.to_user("alice", "news", 4)
        assert (await page.meets("message"))["payload"]["event"] == 4


@pytest.mark.usefixtures("quick")
async def test_whoever_is_revoked_stops_for_good(
    bff: RunningBff, open_page: OpenPage, messenger: Messenger
) -> None:
    async with open_page(bff.token("alice")) as page:
        await page.meets("open")
        await page.meets("message")
        await messenger.close_user("alice")
        assert (await page.meets("message"))["payload"]["code"] == CloseCode.REVOKED
        await page.meets("error")
        await page.meets("closed")
        await until(lambda: not list(bff.engine.handlers))


async def test_who_is_not_signed_in_stops_at_once(bff: RunningBff, open_page: OpenPage) -> None:
    async with open_page(bff.token("alice", lifetime=-60)) as page:
        await page.meets("closed")
