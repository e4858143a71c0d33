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
from tests.chaos.history import Id

_SILENT_SECONDS = 6
"""Without a message or a comment: three times `PING_INTERVAL_SECONDS` of a run."""


class EventStreamClient(Visitor):
    """Follows its topics from the beginning, and resumes from the cursor."""

    transport = "events"
    _cursor = ""
    _code: int | None = None
    """How the visit ends; None before its hello."""

    async def visit(self, address: Address) -> None:
        with suppress(httpx2.HTTPError):
            async with httpx2.AsyncClient(trust_env=False, timeout=_SILENT_SECONDS) as http:
                await self._visit(address, http)

    async def _visit(self, address: Address, http: httpx2.AsyncClient) -> None:
        headers = {"Authorization": f"Bearer {self.token}"}
        if self._cursor:
            headers["Last-Event-ID"] = self._cursor
        since = {Id.parse(id).stream: id for id in self._cursor.split(",") if id}
        params = {"topics": ",".join(self.topics)} if self.topics else {}
        process = address.process
        url = f"{address.url}/events"
        async with http.stream("GET", url, headers=headers, params=params) as response:
            if response.status_code != httpx2.codes.OK:
                return
            await self._read(response, process, since)

    async def _read(self, response: httpx2.Response, process: str, since: dict[str, str]) -> None:
        self._code = None
        reading = asyncio.create_task(self._take_frames(response, process, since))
        leaving = asyncio.create_task(self.leaves())
        try:
            await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (reading, leaving):
                task.cancel()
            await asyncio.wait({reading, leaving})
        with suppress(asyncio.CancelledError, httpx2.HTTPError):
            reading.result()
        if self._code is not None:
            self.recorder.left(self, self._code)

    async def _take_frames(
        self, response: httpx2.Response, process: str, since: dict[str, str]
    ) -> None:
        async for frame, cursor in _frames(response):
            if self._code is None:
                if frame["type"] == "close":
                    return
                self.greeted(frame["payload"]["event"], process, since)
                self._code = CloseCode.ABNORMAL
                self.ready.set()
            else:
                self._take(frame)
            self._cursor = cursor or self._cursor

    def _take(self, frame: dict[str, Any]) -> None:
        match frame["type"]:
            case "event":
                self.event(frame["payload"])
            case "gap":
                self.gap(frame["payload"]["streams"])
            case "close":
                self._code = frame["payload"]["code"]


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
