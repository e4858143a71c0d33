"""A client that reads `GET /events`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx2
from bff.connections.close_codes import CloseCode

from tests.chaos.clients.base import Address, Visitor

_SILENT_SECONDS = 6
"""Without a message or a comment: three times `PING_INTERVAL_SECONDS` of a run."""


class EventStreamClient(Visitor):
    """Follows its topics from the beginning, and resumes from the cursor."""

    transport = "events"
    _cursor = ""

    async def visit(self, address: Address) -> None:
        with suppress(httpx2.HTTPError):
            async with httpx2.AsyncClient(trust_env=False, timeout=_SILENT_SECONDS) as http:
                await self._visit(address, http)

    async def _visit(self, address: Address, http: httpx2.AsyncClient) -> None:
        headers = {"Authorization": f"Bearer {self.token}"}
        if self._cursor:
            headers["Last-Event-ID"] = self._cursor
        since = {id.rsplit("/", 2)[0]: id for id in self._cursor.split(",") if id}
        params = {"topics": ",".join(self.topics)} if self.topics else {}
        process = address.process
        url = f"{address.url}/events"
        async with http.stream("GET", url, headers=headers, params=params) as response:
            if response.status_code != httpx2.codes.OK:
                return
            await self._read(response, process, since)

    async def _read(self, response: httpx2.Response, process: str, since: dict[str, str]) -> None:
        code = CloseCode.ABNORMAL
        greeted = False
        leaving = asyncio.create_task(self.leaves())
        frames = _frames(response)
        try:
            while True:
                coming = asyncio.ensure_future(anext(frames))
                await asyncio.wait({coming, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not coming.done():
                    coming.cancel()
                    break
                frame, cursor = coming.result()
                if frame["type"] == "close":
                    code = frame["payload"]["code"]
                elif greeted:
                    self._take(frame)
                else:
                    self.greeted(frame["payload"]["event"], process, since)
                    greeted = True
                    self.ready.set()
                self._cursor = cursor or self._cursor
        except (StopAsyncIteration, httpx2.HTTPError):
            pass
        finally:
            leaving.cancel()
        if greeted:
            self.recorder.left(self, code)

    def _take(self, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "event":
                self.event(frame["payload"])
            case "gap":
                self.gap(frame["payload"]["streams"])


async def _frames(response: httpx2.Response) -> AsyncIterator[tuple[dict[str, Any], str]]:
    """Each frame with its cursor. An event that is cut off does not count, as in browsers."""
    data = cursor = ""
    async for line in response.aiter_lines():
        field, _, value = line.partition(": ")
        if field == "id":
            cursor = value
        elif field == "data":
            data = value
        elif not line and data:
            yield json.loads(data), cursor
            data = ""
