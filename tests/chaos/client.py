"""A minimal client of `bff.v1`. It keeps its positions, reconnects with them, and records what it
receives."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from bff.connections.close_codes import CloseCode
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from tests.chaos.deployment import Clock, Instance
from tests.chaos.history import (
    Connected,
    Delivered,
    Gap,
    History,
    Id,
    Left,
    Positioned,
    Unsubscribed,
)

_OPEN_SECONDS = 5
_PING_SECONDS = 2
_STAY = (0.5, 8.0)
_AWAY = (0.1, 4.0)
_LONG_AWAY = 15.0
"""An absence in which a stream of `MAX_STREAM_LENGTH` messages overflows."""


class Client:
    """One device of a user, subscribed to `user`, `all` and its topics."""

    def __init__(
        self,
        name: str,
        user: str,
        topics: Sequence[str],
        token: str,
        instances: Sequence[Instance],
        history: History,
        clock: Clock,
        chance: random.Random,
    ) -> None:
        self.name = name
        self.user = user
        self.applied: set[int] = set()
        """The messages it has received."""
        self.ready = asyncio.Event()
        """Set while it is connected and subscribed to all its topics."""
        self.stays = asyncio.Event()
        """Once set, it no longer disconnects by itself, and reconnects without delay."""
        self.topics = topics
        self._token = token
        self._instances = instances
        self._history = history
        self._clock = clock
        self._chance = chance
        self._positions: dict[str, Id] = {}
        self._asked: dict[str, tuple[str, dict[str, str]]] = {}
        """Unanswered requests, with the positions that they contained."""
        self._numbers = 0

    async def run(self) -> None:
        """Connect, disconnect and reconnect, until cancelled."""
        while True:
            with suppress(OSError, TimeoutError, WebSocketException):
                await self._visit(self._chance.choice(self._instances))
            await self._stay_away()

    async def _stay_away(self) -> None:
        seconds = _LONG_AWAY if self._chance.random() < 0.05 else self._chance.uniform(*_AWAY)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stays.wait()
        await asyncio.sleep(self._chance.uniform(0.05, 0.3))

    async def _visit(self, instance: Instance) -> None:
        since = {s: str(p) for s, p in self._positions.items() if s in ("user", "all")}
        query = f"?since={','.join(since.values())}" if since else ""
        async with connect(
            f"ws://127.0.0.1:{instance.port}/ws{query}",
            additional_headers={"Authorization": f"Bearer {self._token}"},
            open_timeout=_OPEN_SECONDS,
            ping_interval=_PING_SECONDS,
            ping_timeout=_PING_SECONDS,
            close_timeout=1,
            compression=None,
            proxy=None,
        ) as websocket:
            process = instance.process
            async with asyncio.timeout(_OPEN_SECONDS):
                hello = json.loads(await websocket.recv())
            self._greeted(hello["payload"]["event"], process, since)
            leaving = asyncio.create_task(self._leave_some_time(websocket))
            try:
                await self._converse(websocket)
            except ConnectionClosed:
                pass
            finally:
                leaving.cancel()
            self.ready.clear()
            self._asked.clear()
            code = websocket.close_code or CloseCode.ABNORMAL
            self._history.add(Left(at=self._clock(), client=self.name, code=code))

    def _greeted(self, hello: dict[str, Any], process: str, since: dict[str, str]) -> None:
        self._history.add(
            Connected(
                at=self._clock(),
                client=self.name,
                user=self.user,
                process=process,
                connection=hello["session_id"],
            )
        )
        self._position(since, hello["positions"], hello["recovered"])

    async def _leave_some_time(self, websocket: ClientConnection) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._chance.uniform(*_STAY)):
                await self.stays.wait()
                return
        if self._chance.random() < 0.5:
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
                    self._event(payload)
                case "gap":
                    self._gap(payload["streams"])
                case "response":
                    if not self._answer(payload):
                        return
                    if not self.ready.is_set():
                        await self._subscribe(websocket)
                    elif self._chance.random() < 0.3 and not self.stays.is_set():
                        await self._unsubscribe(websocket)

    async def _subscribe(self, websocket: ClientConnection) -> None:
        if not self.topics:
            self.ready.set()
            return
        names = [f"topic:{topic}" for topic in self.topics]
        since = {s: str(self._positions[s]) for s in names if s in self._positions}
        topics = [{"topic": t, "since": since.get(f"topic:{t}")} for t in self.topics]
        await self._ask(websocket, "subscribe", since, topics)

    async def _unsubscribe(self, websocket: ClientConnection) -> None:
        self.ready.clear()
        await self._ask(websocket, "unsubscribe", {}, list(self.topics))

    async def _ask(
        self, websocket: ClientConnection, kind: str, since: dict[str, str], topics: list[Any]
    ) -> None:
        self._numbers += 1
        trace_id = str(self._numbers)
        self._asked[trace_id] = (kind, since)
        payload = {"topics": topics, "trace_id": trace_id}
        await websocket.send(json.dumps({"type": kind, "payload": payload}))

    def _answer(self, payload: dict[str, Any]) -> bool:
        """Whether the request was granted."""
        kind, since = self._asked.pop(payload["trace_id"])
        if payload["error"] is not None:
            return False
        if kind == "subscribe":
            result = payload["result"]
            self._position(since, result["positions"], result["recovered"])
            self.ready.set()
        else:
            self._history.add(
                Unsubscribed(at=self._clock(), client=self.name, topics=list(self.topics))
            )
        return True

    def _position(
        self, since: dict[str, str], positions: dict[str, str], recovered: dict[str, bool]
    ) -> None:
        self._history.add(
            Positioned(
                at=self._clock(),
                client=self.name,
                since=since,
                positions=positions,
                recovered=recovered,
            )
        )
        for stream, position in positions.items():
            if stream not in since or recovered.get(stream) is False:
                self._positions[stream] = Id.parse(position)

    def _gap(self, streams: dict[str, str]) -> None:
        self._history.add(Gap(at=self._clock(), client=self.name, positions=streams))
        self._positions |= {stream: Id.parse(position) for stream, position in streams.items()}

    def _event(self, payload: dict[str, Any]) -> None:
        if "id" not in payload:
            return
        id, message = Id.parse(payload["id"]), payload["event"]["message"]
        before = self._positions.get(id.stream)
        new = before is None or before.epoch != id.epoch or before.offset < id.offset
        if new:
            self._positions[id.stream] = id
            self.applied.add(message)
        self._history.add(
            Delivered(at=self._clock(), client=self.name, id=str(id), message=message, applied=new)
        )
