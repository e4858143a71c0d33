"""What all clients of a run have: a user, topics, positions, and a record of what they receive."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from tests.chaos.history import Connected, Delivered, Gap, History, Id, Left, Positioned

_STAY = (0.5, 8.0)
_AWAY = (0.1, 4.0)
_LONG_AWAY = 15.0
"""An absence in which a stream of `MAX_STREAM_LENGTH` messages overflows."""

Clock = Callable[[], float]


class Address(Protocol):
    """Where a client connects: an instance, or a proxy before several."""

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`."""

    @property
    def process(self) -> str:
        """The process that answers now; empty if the address does not tell."""


@dataclass(frozen=True)
class Recorder:
    """Where clients write down what they receive."""

    history: History
    clock: Clock

    def connected(self, client: Client, process: str, connection: str, transport: str) -> None:
        self.history.add(
            Connected(
                at=self.clock(),
                client=client.name,
                user=client.user,
                process=process,
                connection=connection,
                transport=transport,
            )
        )

    def positioned(
        self,
        client: Client,
        since: Mapping[str, str],
        positions: Mapping[str, str],
        recovered: Mapping[str, bool],
    ) -> None:
        self.history.add(
            Positioned(
                at=self.clock(),
                client=client.name,
                since=dict(since),
                positions=dict(positions),
                recovered=dict(recovered),
            )
        )

    def delivered(self, client: Client, id: str, message: int, *, applied: bool) -> None:
        if applied:
            client.applied.add(message)
        self.history.add(
            Delivered(at=self.clock(), client=client.name, id=id, message=message, applied=applied)
        )

    def gap(self, client: Client, positions: Mapping[str, str]) -> None:
        self.history.add(Gap(at=self.clock(), client=client.name, positions=dict(positions)))

    def left(self, client: Client, code: int) -> None:
        client.ready.clear()
        self.history.add(Left(at=self.clock(), client=client.name, code=code))


class Client:
    """One device of a user, which follows `user`, `all` and its topics."""

    def __init__(self, name: str, user: str, topics: Sequence[str], token: str) -> None:
        self.name = name
        self.user = user
        self.topics = topics
        self.token = token
        self.applied: set[int] = set()
        """The messages it has received."""
        self.ready = asyncio.Event()
        """Set while it is connected and subscribed to all its topics."""
        self.stays = asyncio.Event()
        """Once set, it no longer disconnects by itself, and reconnects without delay."""

    @property
    def streams(self) -> list[str]:
        """`user:<user>`, `all` and `topic:<topic>`: what it follows, as a sender names it."""
        return [f"user:{self.user}", "all", *(f"topic:{topic}" for topic in self.topics)]


class Visitor(Client, ABC):
    """A client that comes and goes, keeps its positions, and drops what it has already."""

    transport: ClassVar[str]
    """`websocket` or `events`."""

    def __init__(
        self,
        name: str,
        user: str,
        topics: Sequence[str],
        token: str,
        *,
        addresses: Sequence[Address],
        recorder: Recorder,
        chance: random.Random,
    ) -> None:
        super().__init__(name, user, topics, token)
        self.chance = chance
        self.recorder = recorder
        self.positions: dict[str, Id] = {}
        self._addresses = addresses

    async def run(self) -> None:
        """Connect, disconnect and reconnect, until cancelled."""
        while True:
            await self.visit(self.chance.choice(self._addresses))
            await self._stay_away()

    @abstractmethod
    async def visit(self, address: Address) -> None:
        """Connect once, and stay until the connection ends. A failure is no error."""

    async def leaves(self) -> None:
        """Returns when it is time to disconnect."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.chance.uniform(*_STAY)):
                await self.stays.wait()
        if self.stays.is_set():
            await asyncio.Event().wait()

    def greeted(self, hello: Mapping[str, Any], process: str, since: Mapping[str, str]) -> None:
        """The first frame came."""
        self.recorder.connected(self, process, hello["session_id"], self.transport)
        self.positioned(since, hello["positions"], hello["recovered"])

    def positioned(
        self,
        since: Mapping[str, str],
        positions: Mapping[str, str],
        recovered: Mapping[str, bool],
    ) -> None:
        self.recorder.positioned(self, since, positions, recovered)
        for stream, position in positions.items():
            if stream not in since or recovered.get(stream) is False:
                self.positions[stream] = Id.parse(position)

    def event(self, payload: Mapping[str, Any]) -> None:
        if "id" not in payload:
            return
        id = Id.parse(payload["id"])
        before = self.positions.get(id.stream)
        new = before is None or before.epoch != id.epoch or before.offset < id.offset
        if new:
            self.positions[id.stream] = id
        message = payload["event"]["message"]
        self.recorder.delivered(self, payload["id"], message, applied=new)

    def gap(self, streams: Mapping[str, str]) -> None:
        self.recorder.gap(self, streams)
        self.positions |= {stream: Id.parse(position) for stream, position in streams.items()}

    async def _stay_away(self) -> None:
        seconds = _LONG_AWAY if self.chance.random() < 0.05 else self.chance.uniform(*_AWAY)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.stays.wait()
        await asyncio.sleep(self.chance.uniform(0.05, 0.3))
