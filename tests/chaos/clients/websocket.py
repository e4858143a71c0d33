"""A minimal client of `bff.v1` over a WebSocket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from bff.connections.close_codes import CloseCode
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from tests.chaos.clients.base import Address, Visitor
from tests.chaos.history import Unsubscribed

_OPEN_SECONDS = 5
_PING_SECONDS = 2


class WebSocketClient(Visitor):
    """Subscribes to its topics, and unsubscribes now and then."""

    transport = "websocket"
    _asked: dict[str, tuple[str, dict[str, str]]]
    """Unanswered requests of this connection, with the positions that they contained."""

    async def visit(self, address: Address) -> None:
        with suppress(OSError, TimeoutError, WebSocketException):
            await self._visit(address)

    async def _visit(self, address: Address) -> None:
        since = {s: str(p) for s, p in self.positions.items() if s in ("user", "all")}
        query = f"?since={','.join(since.values())}" if since else ""
        async with connect(
            f"{address.url.replace('http', 'ws', 1)}/ws{query}",
            additional_headers={"Authorization": f"Bearer {self.token}"},
            open_timeout=_OPEN_SECONDS,
            ping_interval=_PING_SECONDS,
            ping_timeout=_PING_SECONDS,
            close_timeout=1,
            compression=None,
            proxy=None,
        ) as websocket:
            process = address.process
            async with asyncio.timeout(_OPEN_SECONDS):
                hello = json.loads(await websocket.recv())
            self._asked = {}
            self.greeted(hello["payload"]["event"], process, since)
            leaving = asyncio.create_task(self._leave_some_time(websocket))
            try:
                await self._converse(websocket)
            except ConnectionClosed:
                pass
            finally:
                leaving.cancel()
            self.recorder.left(self, websocket.close_code or CloseCode.ABNORMAL)

    async def _leave_some_time(self, websocket: ClientConnection) -> None:
        await self.leaves()
        if self.chance.random() < 0.5:
            await websocket.close()
        else:
            websocket.transport.abort()

    async def _converse(self, websocket: ClientConnection) -> None:
        await self._subscribe(websocket)
        while True:
            frame = json.loads(await websocket.recv())
            payload = frame["payload"]
            match frame["type"]:
                case "event":
                    self.event(payload)
                case "gap":
                    self.gap(payload["streams"])
                case "response":
                    if not self._answer(payload):
                        return
                    if not self.ready.is_set():
                        await self._subscribe(websocket)
                    elif self.chance.random() < 0.3 and not self.stays.is_set():
                        await self._unsubscribe(websocket)

    async def _subscribe(self, websocket: ClientConnection) -> None:
        if not self.topics:
            self.ready.set()
            return
        names = [f"topic:{topic}" for topic in self.topics]
        since = {s: str(self.positions[s]) for s in names if s in self.positions}
        topics = [{"topic": t, "since": since.get(f"topic:{t}")} for t in self.topics]
        await self._ask(websocket, "subscribe", since, topics)

    async def _unsubscribe(self, websocket: ClientConnection) -> None:
        self.ready.clear()
        await self._ask(websocket, "unsubscribe", {}, list(self.topics))

    async def _ask(
        self, websocket: ClientConnection, kind: str, since: dict[str, str], topics: Sequence[Any]
    ) -> None:
        trace_id = f"{kind}-{len(self._asked)}"
        self._asked[trace_id] = (kind, since)
        payload = {"topics": topics, "trace_id": trace_id}
        await websocket.send(json.dumps({"type": kind, "payload": payload}))

    def _answer(self, payload: dict[str, Any]) -> bool:
        """Whether the request was granted."""
        kind, since = self._asked[payload["trace_id"]]
        if payload["error"] is not None:
            return False
        if kind == "subscribe":
            result = payload["result"]
            self.positioned(since, result["positions"], result["recovered"])
            self.ready.set()
        else:
            self.recorder.history.add(
                Unsubscribed(at=self.recorder.clock(), client=self.name, topics=list(self.topics))
            )
        return True
