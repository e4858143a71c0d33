"""Transports that send ASGI messages, and so work on any ASGI server.

`WebSocketTransport` is for WebSockets on other servers than `bff serve`, whose own sockets are
transports. `EventStreamTransport`, in another module, is for server-sent events on any server.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.websockets import WebSocket

from bff.connections.close_codes import CloseCode
from bff.connections.frames import Frame
from bff.connections.messages import SUBPROTOCOL

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_CLOSE_SECONDS = 2.0
"""How long `run` waits for the close when the peer has stopped reading."""


class AsgiTransport(ABC):
    """A queue of frames, and `run`, the one task that sends them to the ASGI server."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._frames: deque[Frame] = deque()
        self._buffered = 0
        self._wake = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._closing = asyncio.Event()
        self.close_with = (1000, "")
        """The close code and reason."""

    @property
    def buffered(self) -> int:
        return self._buffered

    def write(self, frame: Frame, limit: int) -> bool:
        size = self._buffered + len(frame.payload)
        if self._buffered and size > limit:
            return False
        if not self._closing.is_set():
            self._frames.append(frame)
            self._buffered = size
            self._empty.clear()
            self._wake.set()
        return True

    async def drained(self) -> None:
        await self._empty.wait()

    def close(self, code: int, reason: str) -> None:
        if self._closing.is_set():
            return
        self.close_with = (code, reason)
        if code == CloseCode.SLOW_CONSUMER:
            self._frames.clear()
        self._closing.set()
        self._wake.set()

    async def run(self) -> None:
        """Send frames until the connection is closed or the peer is gone."""
        writer = asyncio.create_task(self._write())
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait({writer, closing}, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait({writer}, timeout=_CLOSE_SECONDS)
        finally:
            self._empty.set()
            closing.cancel()
            writer.cancel()

    async def _write(self) -> None:
        try:
            while True:
                while self._frames:
                    frame = self._frames.popleft()
                    await self._send_frame(frame)
                    self._buffered -= len(frame.payload)
                if self._closing.is_set():
                    await self._send_close(*self.close_with)
                    return
                self._empty.set()
                self._wake.clear()
                await self._idle(self._wake)
        except (OSError, RuntimeError):
            """The peer is gone: ASGI servers raise OSError, Starlette raises RuntimeError."""

    @abstractmethod
    async def _send_frame(self, frame: Frame) -> None: ...

    @abstractmethod
    async def _send_close(self, code: int, reason: str) -> None: ...

    async def _idle(self, wake: asyncio.Event) -> None:
        """Wait until there is something to send. May return early."""
        await wake.wait()


class WebSocketTransport(AsgiTransport):
    """The transport of an accepted ASGI WebSocket."""

    async def _send_frame(self, frame: Frame) -> None:
        await self._send({"type": "websocket.send", "text": frame.text})

    async def _send_close(self, code: int, reason: str) -> None:
        await self._send({"type": "websocket.close", "code": code, "reason": reason})


async def accept(websocket: WebSocket) -> None:
    """Accept a handshake, with the subprotocol `bff.v1` if the client offers it."""
    offered = websocket.scope.get("subprotocols", ())
    await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
