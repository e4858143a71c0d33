"""Test clients: a WebSocket and an event stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import httpx2
import websockets

SECONDS = 15
"""Timeout of every wait."""


class Browser:
    """A WebSocket client. Frames are dicts; every wait has a timeout of 15 s.

    A method that waits for one frame keeps the frames before it for later calls.
    """

    def __init__(self, websocket: websockets.ClientConnection) -> None:
        self.websocket = websocket
        self.hello: dict[str, Any] = {}
        self._skipped: list[dict[str, Any]] = []

    async def send(self, frame: Any) -> None:
        """Send a dict as JSON; send text and bytes unchanged."""
        raw = frame if isinstance(frame, str | bytes) else json.dumps(frame)
        await self.websocket.send(raw)

    async def receive(self) -> dict[str, Any]:
        """Wait for the next frame and return it."""
        return await self._first(lambda frame: True)

    async def event(self, topic: str) -> dict[str, Any]:
        """Wait for the next event of that topic and return its payload."""
        frame = await self._first(
            lambda frame: frame["type"] == "event" and frame["payload"]["topic"] == topic
        )
        payload: dict[str, Any] = frame["payload"]
        return payload

    async def request(self, service: str, method: str, **params: Any) -> dict[str, Any]:
        """Send a request and return the payload of its response."""
        trace_id = f"{service}.{method}"
        call = {"service": service, "method": method, "params": params, "trace_id": trace_id}
        return await self.ask({"type": "request", "payload": call})

    async def subscribe(self, *topics: str, **since: str) -> dict[str, Any]:
        """Subscribe and return the payload of the response. `since`: message ids, by topic."""
        wanted = [{"topic": topic, "since": since.get(topic)} for topic in topics]
        payload = {"topics": wanted, "trace_id": f"subscribe {' '.join(topics)}"}
        return await self.ask({"type": "subscribe", "payload": payload})

    async def ask(self, frame: dict[str, Any]) -> dict[str, Any]:
        """Send a frame and return the payload of the frame that answers it."""
        await self.send(frame)
        return await self.answer(frame["payload"]["trace_id"])

    async def answer(self, trace_id: str) -> dict[str, Any]:
        """Wait for the frame with this trace id and return its payload."""
        answer = await self._first(lambda frame: frame["payload"].get("trace_id") == trace_id)
        payload: dict[str, Any] = answer["payload"]
        return payload

    async def _first(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        for number, earlier in enumerate(self._skipped):
            if wanted(earlier):
                return self._skipped.pop(number)
        async with asyncio.timeout(SECONDS):
            while True:
                frame: dict[str, Any] = json.loads(await self.websocket.recv())
                if wanted(frame):
                    return frame
                self._skipped.append(frame)

    def passed_over(self) -> list[dict[str, Any]]:
        """Frames that arrived and that no method has returned."""
        return self._skipped

    async def closed(self) -> int | None:
        """Wait for the connection to close and return the close code. Frames are dropped."""
        async with asyncio.timeout(SECONDS):
            with suppress(websockets.ConnectionClosed):
                while True:
                    await self.websocket.recv()
        return self.websocket.close_code


class EventSource:
    """An event stream client, which parses as browsers do (WHATWG HTML, section 9.2.6)."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self.hello: dict[str, Any] = {}
        self.last_event_id = ""
        self.retry: int | None = None
        self.comments = 0
        self._lines = self._read_lines()

    async def receive(self) -> dict[str, Any]:
        """Wait for the next event and return its data, which must be one line of JSON.

        Raises:
            EOFError: the stream has ended.
        """
        data: list[bytes] = []
        async with asyncio.timeout(SECONDS):
            async for line in self._lines:
                field, _, value = line.partition(b": ")
                if line.startswith(b":"):
                    self.comments += 1
                elif field == b"data":
                    data.append(value)
                elif field == b"id":
                    self.last_event_id = value.decode()
                elif field == b"retry":
                    self.retry = int(value)
                elif not line and data:
                    (text,) = data
                    frame: dict[str, Any] = json.loads(text)
                    return frame
                else:
                    assert not line, line
        raise EOFError

    async def event(self, topic: str) -> dict[str, Any]:
        """Wait for the next event of that topic and return its payload, dropping others."""
        while True:
            frame = await self.receive()
            if frame["type"] == "event" and frame["payload"]["topic"] == topic:
                payload: dict[str, Any] = frame["payload"]
                return payload

    async def closed(self) -> int | None:
        """Wait for the end of the stream and return the code of its last frame, a `close`. Other
        frames are dropped."""
        code = None
        with suppress(EOFError):
            while True:
                frame = await self.receive()
                assert code is None
                if frame["type"] == "close":
                    code = frame["payload"]["code"]
        return code

    async def _read_lines(self) -> AsyncIterator[bytes]:
        """Lines that end with a line feed: `aiter_lines` of httpx2 splits at others too."""
        rest = b""
        async for chunk in self.response.aiter_bytes():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                assert b"\r" not in line
                yield line
