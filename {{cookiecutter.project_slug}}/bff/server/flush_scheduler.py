"""What the sockets of one server share: limits, and the moment at which they write."""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from uvicorn.config import Config
from uvicorn.server import ServerState

_FLUSH_BATCH: Final = 100
"""Sockets written to in one turn of the loop, in less than a millisecond. What comes meanwhile for
those that are still to be written to leaves with what they have."""


class Writer(Protocol):
    """A socket's way out."""

    transport: asyncio.Transport
    outgoing: bytes | list[bytes] | None
    """Of several frames a list."""

    def flush(self) -> None:
        """Hand over what has gathered."""


class FlushScheduler:
    """Writes what has gathered for each socket in one go, once per turn of the loop.

    A write is a system call: twenty frames one by one are twenty of them.
    """

    def __init__(self, config: Config, state: ServerState, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.logger = logging.getLogger("uvicorn.error")
        self.connections = state.connections
        """Of the server: what is in there is closed when it shuts down."""
        self.tasks = state.tasks
        self.max_size = config.ws_max_size
        self.ping_interval = config.ws_ping_interval or 0.0
        """Seconds; 0 for no pings."""
        self.ping_timeout = config.ws_ping_timeout or 0.0
        """Seconds; 0 to wait for ever."""
        self.pending: Final[list[Writer]] = []
        """Who has something to write; whoever adds the first calls `flush_soon`."""

    def schedule(self, socket: Writer) -> None:
        """Let a socket write in the next turn of the loop."""
        if not self.pending:
            self.flush_soon()
        self.pending.append(socket)

    def flush_soon(self) -> None:
        """Let all dirty sockets write in the next turn of the loop."""
        self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        pending = self.pending
        batch = pending[:_FLUSH_BATCH]
        del pending[:_FLUSH_BATCH]
        if pending:
            self.flush_soon()
        for socket in batch:
            frame = socket.outgoing
            if frame.__class__ is bytes:
                socket.outgoing = None
                socket.transport.write(frame)
            else:
                socket.flush()


_of_servers: WeakKeyDictionary[ServerState, FlushScheduler] = WeakKeyDictionary()


def scheduler_of(
    config: Config, state: ServerState, loop: asyncio.AbstractEventLoop
) -> FlushScheduler:
    """The same for all connections of a server."""
    found = _of_servers.get(state)
    if found is None:
        found = _of_servers[state] = FlushScheduler(config, state, loop)
    return found
