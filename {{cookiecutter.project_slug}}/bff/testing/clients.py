"""What a page has: a socket, and an event stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import httpx
import websockets

SECONDS = 15
"""How long a test waits for what must come."""


class Browser:
    """A socket as a page has it: frames as dicts, every wait with a deadline."""

    def __init__(self, websocket: websockets.ClientConnection) -> None:
        self.websocket = websocket
        self.hello: dict[str, Any] = {}
        self._passed_over: list[dict[str, Any]] = []

    async def send(self, frame: Any) -> None:
        """Send a dict as JSON, text and bytes as they are."""
        raw = frame if isinstance(frame, str | bytes) else json.dumps(frame)
        await self.websocket.send(raw)

    async def receive(self) -> dict[str, Any]:
        """The next frame."""
        return await self._first(lambda frame: True)

    async def event(self, topic: str) -> dict[str, Any]:
        """The payload of the next event of that topic; other frames stay for later."""
        frame = await self._first(
            lambda frame: frame["type"] == "event" and frame["payload"]["topic"] == topic
        )
        payload: dict[str, Any] = frame["payload"]
        return payload

    async def request(self, service: str, method: str, **params: Any) -> dict[str, Any]:
        """The payload of the response to a request; other frames stay for later."""
        trace_id = f"{service}.{method}"
        call = {"service": service, "method": method, "params": params, "trace_id": trace_id}
        return await self.ask({"type": "request", "payload": call})

    async def subscribe(self, *topics: str, **since: str) -> dict[str, Any]:
        """The payload of the response to a subscription; `since` are ids, by topic."""
        wishes = [{"topic": topic, "since": since.get(topic)} for topic in topics]
        wish = {"topics": wishes, "trace_id": f"subscribe {' '.join(topics)}"}
        return await self.ask({"type": "subscribe", "payload": wish})

    async def ask(self, frame: dict[str, Any]) -> dict[str, Any]:
        """Send a frame; the payload of the answer that has its trace id."""
        await self.send(frame)
        return await self.answer(frame["payload"]["trace_id"])

    async def answer(self, trace_id: str) -> dict[str, Any]:
        """The payload of the answer that has this trace id; other frames stay for later."""
        answer = await self._first(lambda frame: frame["payload"].get("trace_id") == trace_id)
        payload: dict[str, Any] = answer["payload"]
        return payload

    async def _first(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        for number, earlier in enumerate(self._passed_over):
            if wanted(earlier):
                return self._passed_over.pop(number)
        async with asyncio.timeout(SECONDS):
            while True:
                frame: dict[str, Any] = json.loads(await self.websocket.recv())
                if wanted(frame):
                    return frame
                self._passed_over.append(frame)

    def passed_over(self) -> list[dict[str, Any]]:
        """Frames that came and were not waited for."""
        return self._passed_over

    async def closed(self) -> int | None:
        """The code that the server closes with; frames before it are passed over."""
        async with asyncio.timeout(SECONDS):
            with suppress(websockets.ConnectionClosed):
                while True:
                    await self.websocket.recv()
        return self.websocket.close_code


class EventSource:
    """An event stream as a browser reads it (WHATWG HTML, section 9.2.6)."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.hello: dict[str, Any] = {}
        self.last_event_id = ""
        self.retry: int | None = None
        self.comments = 0
        self._lines = self._read_lines()

    async def receive(self) -> dict[str, Any]:
        """The data of the next event, which must be one line of JSON."""
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
        """The payload of the next event of that topic; others are passed over."""
        while True:
            frame = await self.receive()
            if frame["type"] == "event" and frame["payload"]["topic"] == topic:
                payload: dict[str, Any] = frame["payload"]
                return payload

    async def closed(self) -> int | None:
        """The code of the `close` with which the stream must end; others are passed over."""
        code = None
        with suppress(EOFError):
            while True:
                frame = await self.receive()
                assert code is None
                if frame["type"] == "close":
                    code = frame["payload"]["code"]
        return code

    async def _read_lines(self) -> AsyncIterator[bytes]:
        """Not httpx' own, which end at line breaks that are none here."""
        rest = b""
        async for chunk in self.response.aiter_bytes():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                assert b"\r" not in line
                yield line
