"""A browser tab that reads `/events`, as far as the BFF can tell."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from tests.e2e.conftest import Person
from tests.e2e.frame_contract import FrameContract
from tests.e2e.waiting import SECONDS


@dataclass(frozen=True)
class Received:
    """One event: its frame, and the cursor that leads on from there."""

    frame: dict[str, Any]
    id: str


@asynccontextmanager
async def event_stream(
    http: httpx2.AsyncClient, url: str, person: Person, last_event_id: str = ""
) -> AsyncIterator[AsyncIterator[Received]]:
    """What comes, each within the deadline."""
    headers = {"Authorization": f"Bearer {person.token}"}
    if last_event_id:
        headers["Last-Event-ID"] = last_event_id
    async with http.stream("GET", url, headers=headers) as response:
        assert response.status_code == 200, (await response.aread()).decode()
        yield _events(response)


async def _events(response: httpx2.Response) -> AsyncIterator[Received]:
    cursor, contract = "", FrameContract()
    lines = response.aiter_lines()
    while True:
        try:
            async with asyncio.timeout(SECONDS):
                field, _, value = (await anext(lines)).partition(": ")
        except StopAsyncIteration:
            return
        if field == "id":
            cursor = value
        elif field == "data":
            frame = json.loads(value)
            contract.check(frame)
            yield Received(frame, cursor)
