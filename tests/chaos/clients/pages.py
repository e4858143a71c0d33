"""Pages with `bff-client.js`, under Node: many in one process."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.clients.base import Address, Client, Recorder

_SCRIPT = Path(__file__).with_name("pages.mjs")
_LINE_BYTES = 1 << 20
_QUICK = {
    "pingTimeoutMs": 2_000,
    "connectTimeoutMs": 5_000,
    "backoffBaseMs": 200,
    "backoffCapMs": 2_000,
}


class Page(Client):
    """A page. It stays, and reconnects as the client does."""

    def __init__(
        self, name: str, user: str, topics: Sequence[str], token: str, *, blocked: float = 0
    ) -> None:
        """`blocked`: the share of its WebSockets that are refused, as by a proxy."""
        super().__init__(name, user, topics, token)
        self.blocked = blocked
        self.subscribed: set[str] = set()
        self.announced = 0
        """Streams of which the BFF said that messages are lost."""
        self.told = 0
        """Streams of which the client told its page so."""


class Pages:
    """All pages of a run."""

    def __init__(
        self,
        pages: Sequence[Page],
        *,
        project: Path,
        addresses: Sequence[Address],
        recorder: Recorder,
        request_ms: int = 0,
    ) -> None:
        """`request_ms`: how often each page sends a request; 0: never."""
        self.pages = {page.name: page for page in pages}
        self.requests: Counter[str] = Counter()
        """The outcomes of requests: `answered`, or an error's code and outcome."""
        self._addresses = {address.url: address for address in addresses}
        self._recorder = recorder
        self._variables = {
            "CLIENT": (project / "client" / "bff-client.js").as_uri(),
            "ADDRESSES": json.dumps(list(self._addresses)),
            "CLIENTS": json.dumps(
                [
                    {"name": p.name, "token": p.token, "topics": p.topics, "blocked": p.blocked}
                    for p in pages
                ]
            ),
            "OPTIONS": json.dumps(_QUICK),
            "REQUEST_MS": str(request_ms),
        }

    async def run(self, node: Sequence[str]) -> None:
        """Run them until cancelled.

        Raises:
            RuntimeError: Node has ended, or a client gave up.
        """
        process = await asyncio.create_subprocess_exec(
            *node,
            str(_SCRIPT),
            env=os.environ | self._variables,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
        )
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                self._take(json.loads(line))
            raise RuntimeError(f"Node ended with {await process.wait()}")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _take(self, line: Mapping[str, Any]) -> None:
        if "request" in line:
            self.requests[line["request"]] += 1
            return
        page = self.pages[line["name"]]
        recorder = self._recorder
        match line:
            case {"hello": hello, "since": since, "address": address, "transport": transport}:
                process = self._addresses[address].process
                recorder.connected(page, process, hello["session_id"], transport)
                page.subscribed.clear()
                page.ready.clear()
                self._position(page, since, hello)
            case {"subscribed": result, "since": since}:
                self._position(page, since, result)
            case {"id": id, "message": message}:
                recorder.delivered(page, id, message, applied=True)
            case {"gap": streams}:
                page.announced += len(streams)
                recorder.gap(page, streams)
            case {"told": count}:
                page.told += count
            case {"left": code}:
                recorder.left(page, code)
            case _:
                raise RuntimeError(f"{page.name}: {line}")

    def _position(self, page: Page, since: Mapping[str, str], result: Mapping[str, Any]) -> None:
        recovered = result["recovered"]
        page.announced += sum(not recovered[stream] for stream in recovered if stream in since)
        page.subscribed |= set(result["positions"])
        self._recorder.positioned(page, since, result["positions"], recovered)
        if page.subscribed >= {f"topic:{topic}" for topic in page.topics}:
            page.ready.set()
