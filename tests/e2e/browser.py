"""A browser tab, as far as the BFF can tell: one real socket, whose frames are kept in order."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import Any, Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Origin, Subprotocol

from tests.e2e.frame_contract import FrameContract
from tests.e2e.processes import Instance
from tests.e2e.waiting import SECONDS

Frame = dict[str, Any]


class Browser:
    """Reads all the time, as a browser does."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: list[Frame] = []
        self._contract = FrameContract()
        self._changed = asyncio.Condition()
        self._closed = False
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(
        cls,
        instance: Instance,
        *,
        token: str | None = None,
        ticket: str | None = None,
        query: str | None = None,
        cookie: str | None = None,
        origin: str | None = None,
        authorization: str | None = None,
        subprotocols: list[str] | None = None,
    ) -> Self:
        """A handshake with these credentials, whatever comes of it.

        Raises:
            websockets.exceptions.InvalidStatus: the handshake was refused.
        """
        headers = {"Authorization": authorization} if authorization is not None else {}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if cookie is not None:
            headers["Cookie"] = f"Authorization={cookie}"
        if ticket is not None:
            query = f"ticket={ticket}"
        socket = await connect(
            f"{instance.socket_url}?{query}" if query else instance.socket_url,
            additional_headers=headers,
            origin=Origin(origin) if origin else None,
            subprotocols=[Subprotocol(name) for name in subprotocols] if subprotocols else None,
            compression=None,
            proxy=None,
            max_size=None,
        )
        return cls(socket)

    @property
    def hello(self) -> dict[str, Any]:
        """The hello: the event of the first frame."""
        assert self.frames, "no frame came yet"
        payload = self.frames[0]["payload"]
        assert (self.frames[0]["type"], payload["topic"]) == ("event", "hello"), self.frames
        event: dict[str, Any] = payload["event"]
        return event

    @property
    def connection_id(self) -> str:
        identity: str = self.hello["session_id"]
        return identity

    @property
    def is_open(self) -> bool:
        return not self._closed

    # Out

    async def send(self, text: str | bytes) -> None:
        """Send anything at all."""
        await self.socket.send(text)

    async def say(self, type_: str, **payload: Any) -> None:
        """Send a frame of the protocol."""
        self._contract.sent(type_, payload)
        await self.send(json.dumps({"type": type_, "payload": payload}))

    async def ask(
        self, service: str, method: str, params: dict[str, Any] | None = None, **more: Any
    ) -> dict[str, Any]:
        """Send a request and return the payload of its response."""
        return await self.answered("request", service=service, method=method, params=params, **more)

    async def command(
        self, service: str, method: str, params: dict[str, Any] | None = None, **more: Any
    ) -> dict[str, Any]:
        """Send a command and return the payload of its response."""
        return await self.answered("command", service=service, method=method, params=params, **more)

    async def answered(self, type_: str, **payload: Any) -> dict[str, Any]:
        """Send a frame with a trace id of its own and return the payload of its response."""
        trace_id = payload.setdefault("trace_id", uuid.uuid4().hex)
        if payload.get("params", ...) is None:
            payload["params"] = {}
        await self.say(type_, **payload)
        return await self.response(trace_id)

    async def answers(self) -> bool:
        """Whether the socket still works: a ping of the protocol is answered."""
        trace_id = uuid.uuid4().hex
        await self.say("ping", trace_id=trace_id)
        await self.frame(lambda frame: frame == {"type": "pong", "payload": {"trace_id": trace_id}})
        return True

    # In

    async def frame(
        self, matches: Callable[[Frame], bool], *, after: int = 0, seconds: float = SECONDS
    ) -> Frame:
        """The first frame that matches, from the one number `after` on; waits for it.

        Raises:
            AssertionError: it did not come within `seconds`, or the socket was closed before.
        """

        def found() -> Frame | None:
            return next((frame for frame in self.frames[after:] if matches(frame)), None)

        async with self._changed:
            try:
                async with asyncio.timeout(seconds):
                    await self._changed.wait_for(lambda: found() is not None or self._closed)
            except TimeoutError:
                raise AssertionError(f"no such frame; there are {self.frames[after:]}") from None
        frame = found()
        assert frame is not None, f"closed with {self.socket.close_code} after {self.frames}"
        return frame

    async def next_frame(self, after: int) -> Frame:
        """Frame number `after`."""
        return await self.frame(lambda _: True, after=after)

    async def response(self, trace_id: str) -> dict[str, Any]:
        """The payload of the response to a request."""
        frame = await self.frame(
            lambda frame: frame["type"] == "response" and frame["payload"]["trace_id"] == trace_id
        )
        payload: dict[str, Any] = frame["payload"]
        return payload

    async def event(self, topic: str) -> dict[str, Any]:
        """The payload of the first event of a topic."""
        frame = await self.frame(
            lambda frame: frame["type"] == "event" and frame["payload"]["topic"] == topic
        )
        payload: dict[str, Any] = frame["payload"]
        return payload

    def events(self, topic: str) -> list[dict[str, Any]]:
        """The payloads of all events of a topic that have come so far."""
        return [
            frame["payload"]
            for frame in self.frames
            if frame["type"] == "event" and frame["payload"]["topic"] == topic
        ]

    def responses(self, trace_id: str) -> list[Frame]:
        """All responses to a request that have come so far."""
        return [
            frame
            for frame in self.frames
            if frame["type"] == "response" and frame["payload"]["trace_id"] == trace_id
        ]

    # The end

    async def closed(self, seconds: float = SECONDS) -> int:
        """Wait until the BFF has closed the socket; returns the code."""
        async with asyncio.timeout(seconds):
            await self.socket.wait_closed()
            await self._reading
        assert self.socket.close_code is not None
        return self.socket.close_code

    async def close(self) -> None:
        """Leave."""
        await self.socket.close()
        await self._reading

    async def _read(self) -> None:
        try:
            async for text in self.socket:
                async with self._changed:
                    frame = json.loads(text)
                    self._contract.check(frame)
                    self.frames.append(frame)
                    self._changed.notify_all()
        except ConnectionClosed:
            pass
        finally:
            self._closed = True
            async with self._changed:
                self._changed.notify_all()
