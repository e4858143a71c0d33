"""Sends numbered messages over every route to browsers.

YOURS to extend: a way of your own is a class with a `name`, the streams it can send to, and `send`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import aio_pika
import httpx2
from bff.errors import Outcome, Problem
from bff.mesh.client import MeshClient

from tests.chaos.clients import Address
from tests.chaos.clients.base import Clock
from tests.chaos.history import History, Refused, Sent, Taken, Unknown
from tests.chaos.instance import EVENT, RULE

_PAUSE = (0.05, 0.6)
_SECONDS = 8


class NotSent(Exception):
    """The message was not sent."""


class Way(Protocol):
    """One route from a sender to browsers."""

    name: str

    def reaches(self, stream: str) -> bool:
        """Whether it can send to `user:<user>`, `all` or `topic:<topic>`."""

    async def send(self, stream: str, message: int) -> str | None:
        """Returns the id of the stored message, or None if this route does not return it.

        Raises:
            NotSent: it was certainly not sent.
            Exception: nobody knows.
        """


class ByMethod:
    """A method that an instance answers: `POST /rpc/chaos/say`."""

    name = "method"

    def __init__(self, http: Http) -> None:
        self._http = http

    def reaches(self, stream: str) -> bool:
        return True

    async def send(self, stream: str, message: int) -> str | None:
        answer = await self._http.post("/rpc/chaos/say", {"stream": stream, "message": message})
        stored: str | None = answer.json()["id"]
        return stored


class ByAdmin:
    """An administrator's broadcast: `POST /admin/broadcasts`."""

    name = "admin"

    def __init__(self, http: Http) -> None:
        self._http = http

    def reaches(self, stream: str) -> bool:
        return not stream.startswith("topic:")

    async def send(self, stream: str, message: int) -> str | None:
        kind, _, name = stream.partition(":")
        audience: dict[str, object] = (
            {"audience": "users", "user_ids": [name]} if kind == "user" else {}
        )
        body = {"audience": "all", **audience, "topic": EVENT, "event": {"message": message}}
        answer = await self._http.post("/admin/broadcasts", body)
        (stored,) = answer.json()["message_ids"]
        id: str | None = stored
        return id


class ByMesh:
    """A mesh event that an event handler sends to browsers."""

    name = "mesh"

    def __init__(self, mesh: MeshClient) -> None:
        self._mesh = mesh

    def reaches(self, stream: str) -> bool:
        return True

    async def send(self, stream: str, message: int) -> str | None:
        try:
            await self._mesh.publish(RULE, {"stream": stream, "message": message})
        except Problem as problem:
            if problem.outcome is Outcome.NOT_SENT:
                raise NotSent(str(problem)) from problem
            raise
        return None


async def dead_letters(amqp_url: str, app_name: str) -> list[int]:
    """The events that were dead-lettered."""
    async with (
        asyncio.timeout(2 * _SECONDS),
        await aio_pika.connect(amqp_url) as connection,
    ):
        channel = await connection.channel()
        queue = await channel.get_queue(f"{app_name}.dead-letters.v1")
        found = []
        while letter := await queue.get(no_ack=True, fail=False):
            found.append(json.loads(letter.body)["event"]["message"])
    return found


class Http:
    """Sends requests of an administrator to any of the addresses, like a load balancer."""

    def __init__(self, addresses: Sequence[Address], token: str, chance: random.Random) -> None:
        self._urls = [address.url for address in addresses]
        self._headers = {"Authorization": f"Bearer {token}"}
        self._chance = chance
        self._client = httpx2.AsyncClient(trust_env=False, timeout=_SECONDS)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def post(self, path: str, body: Mapping[str, object]) -> httpx2.Response:
        url = self._chance.choice(self._urls) + path
        try:
            answer = await self._client.post(url, json=body, headers=self._headers)
        except httpx2.ConnectError as error:
            raise NotSent(str(error)) from error
        if answer.is_success:
            return answer
        problem = answer.json() if "json" in answer.headers["content-type"] else {}
        if not problem:
            raise RuntimeError(f"status {answer.status_code}")
        if problem["outcome"] == Outcome.NOT_SENT:
            raise NotSent(problem["code"])
        raise RuntimeError(problem["code"])


class Traffic:
    """Numbers the messages and records the outcome of each."""

    def __init__(self, history: History, clock: Clock, chance: random.Random) -> None:
        self._history = history
        self._clock = clock
        self._chance = chance
        self._numbers: Iterator[int] = itertools.count(1)

    async def flow(self, ways: Sequence[Way], streams: Sequence[str]) -> None:
        """Send over every route to every stream, until cancelled."""
        async with asyncio.TaskGroup() as senders:
            for way, stream in _pairs(ways, streams):
                senders.create_task(self._flow(way, stream))

    async def last(self, ways: Sequence[Way], streams: Sequence[str]) -> dict[str, set[int]]:
        """Send a last message over every route to every stream, until each is confirmed. A client
        that has them has all earlier ones. Returns them by stream."""
        last: dict[str, set[int]] = {stream: set() for stream in streams}
        for way, stream in _pairs(ways, streams):
            while (taken := await self.send(way, stream)) is None:
                await asyncio.sleep(_PAUSE[0])
            last[stream].add(taken)
        return last

    async def send(self, way: Way, stream: str) -> int | None:
        """Send a message; returns its number if it was confirmed."""
        message = next(self._numbers)
        sent = Sent(at=self._clock(), message=message, stream=stream, way=way.name)
        self._history.add(sent)
        try:
            async with asyncio.timeout(2 * _SECONDS):
                id = await way.send(stream, message)
        except NotSent as error:
            self._history.add(Refused(at=self._clock(), message=message, reason=str(error)))
            return None
        except asyncio.CancelledError:
            self._history.add(Unknown(at=self._clock(), message=message, reason="cancelled"))
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            self._history.add(Unknown(at=self._clock(), message=message, reason=reason))
            return None
        self._history.add(Taken(at=self._clock(), message=message, id=id))
        return message

    async def _flow(self, way: Way, stream: str) -> None:
        while True:
            await asyncio.sleep(self._chance.uniform(*_PAUSE))
            await self.send(way, stream)


def _pairs(ways: Sequence[Way], streams: Sequence[str]) -> list[tuple[Way, str]]:
    return [(way, stream) for way in ways for stream in streams if way.reaches(stream)]
