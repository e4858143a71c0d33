"""Node's `EventSource` at `/events`: when it reconnects, with which id, and when it stops."""

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
from bff.connections import event_stream_transport
from bff.connections.close_codes import CloseCode
from bff.testing import RunningBff, until
from bff.testing.clients import SECONDS

_FLAG = "--experimental-eventsource"


class Page:
    """The events that an `EventSource` reports, in order."""

    def __init__(self, output: asyncio.StreamReader) -> None:
        self._output = output

    async def expect(self, kind: str) -> Any:
        """The next event must be of this kind; returns a message's frame with its `lastEventId`."""
        async with asyncio.timeout(SECONDS):
            event = json.loads(await self._output.readline())
        assert event["kind"] == kind, event
        if kind == "message":
            return json.loads(event["data"]) | {"last": event["id"]}
        return None


OpenPage = Callable[[str], AbstractAsyncContextManager[Page]]


@pytest.fixture
def open_page(bff: RunningBff) -> OpenPage:
    """Open an `EventSource` with a cookie, in a Node process."""
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
def fast_reconnect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream_transport, "_RECONNECT_SECONDS", (0.3, 0.4))


@pytest.mark.usefixtures("fast_reconnect")
async def test_it_reconnects_and_misses_nothing(
    bff: RunningBff, open_page: OpenPage, messenger: Messenger
) -> None:
    async with open_page(bff.token("alice")) as page:
        await page.expect("open")
        await page.expect("message")
        first = await messenger.to_user("alice", "news", 1)
        assert str(first.id) in (await page.expect("message"))["last"]
        await messenger.close_user("alice", CloseCode.SLOW_CONSUMER)
        assert (await page.expect("message"))["payload"]["code"] == CloseCode.SLOW_CONSUMER
        await page.expect("error")
        await messenger.to_user("alice", "news", 2)
        await messenger.to_all("news", 3)
        await page.expect("open")
        hello = await page.expect("message")
        assert hello["payload"]["event"]["recovered"] == {"user": True, "all": True}
        missed = [await page.expect("message") for _ in range(2)]
        assert [frame["payload"]["event"] for frame in missed] == [2, 3]
        await messenger.to_user("alice", "news", 4)
        assert (await page.expect("message"))["payload"]["event"] == 4


@pytest.mark.usefixtures("fast_reconnect")
async def test_it_stops_after_4504(
    bff: RunningBff, open_page: OpenPage, messenger: Messenger
) -> None:
    async with open_page(bff.token("alice")) as page:
        await page.expect("open")
        await page.expect("message")
        await messenger.close_user("alice")
        assert (await page.expect("message"))["payload"]["code"] == CloseCode.REVOKED
        await page.expect("error")
        await page.expect("closed")
        await until(lambda: not list(bff.engine.handlers))


async def test_it_stops_when_the_token_is_not_valid(bff: RunningBff, open_page: OpenPage) -> None:
    async with open_page(bff.token("alice", lifetime=-60)) as page:
        await page.expect("closed")
