"""Batches writes: each connection is flushed once per turn of the event loop."""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from uvicorn.config import Config
from uvicorn.server import ServerState

_FLUSH_BATCH: Final = 100
"""Connections flushed in one turn of the loop, which takes less than a millisecond. The others wait
for the next turn: frames that they get until then are sent in the same write."""


class Writer(Protocol):
    """What the scheduler needs of a connection."""

    transport: asyncio.Transport
    outgoing: bytes | list[bytes] | None
    """One frame as bytes, several as a list."""

    def flush(self) -> None:
        """Write the waiting frames to the transport."""


class FlushScheduler:
    """Joins the frames that one turn of the loop produces for a connection into one write.

    Each write is a system call: twenty frames written one by one cost twenty of them. All
    connections of a server share one scheduler, which also holds their limits.
    """

    def __init__(self, config: Config, state: ServerState, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.logger = logging.getLogger("uvicorn.error")
        self.connections = state.connections
        """uvicorn's set of open connections, which it shuts down when the server stops."""
        self.tasks = state.tasks
        """uvicorn's set of running ASGI tasks, which it awaits when the server stops."""
        self.max_size = config.ws_max_size
        """Bytes of a message that a client sends, at most."""
        self.ping_interval = config.ws_ping_interval or 0.0
        """Seconds between pings; 0 sends none."""
        self.ping_timeout = config.ws_ping_timeout or 0.0
        """Seconds to wait for a pong; 0 waits without limit."""
        self.pending: Final[list[Writer]] = []
        """Connections with frames to write. `WriteBuffer.write` appends to it itself, which saves
        a call for each frame; before the first one it calls `schedule_flush`."""

    def schedule(self, writer: Writer) -> None:
        """Flush a connection in the next turn of the loop, or later if many are waiting."""
        if not self.pending:
            self.schedule_flush()
        self.pending.append(writer)

    def schedule_flush(self) -> None:
        """Flush all pending connections, beginning with the next turn of the loop."""
        self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        pending = self.pending
        batch = pending[:_FLUSH_BATCH]
        del pending[:_FLUSH_BATCH]
        if pending:
            self.schedule_flush()
        for writer in batch:
            frame = writer.outgoing
            if frame.__class__ is bytes:
                writer.outgoing = None
                writer.transport.write(frame)
            else:
                writer.flush()


_schedulers: WeakKeyDictionary[ServerState, FlushScheduler] = WeakKeyDictionary()


def scheduler_of(
    config: Config, state: ServerState, loop: asyncio.AbstractEventLoop
) -> FlushScheduler:
    """Return the scheduler of a server, which is created for its first connection."""
    found = _schedulers.get(state)
    if found is None:
        found = _schedulers[state] = FlushScheduler(config, state, loop)
    return found
