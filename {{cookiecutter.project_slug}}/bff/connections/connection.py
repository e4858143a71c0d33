"""One socket of one user."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from bff.connections.close_codes import CloseCode
from bff.connections.frames import Frame
from bff.connections.messages import Message
from bff.connections.positions import Position
from bff.connections.transport import Transport


def new_connection_id(instance_id: str) -> str:
    """`<instance>.<random>`: whoever knows a connection's id knows which instance holds it."""
    return f"{instance_id}.{secrets.token_urlsafe(12)}"


def instance_of(connection_id: str) -> str:
    """The instance that holds a connection."""
    return connection_id.partition(".")[0]


class Connection:
    """A socket with one way out: whoever sends, frames leave in the order of the calls.

    It starts held: frames wait until `open` has sent the hello, which is always the first.
    """

    __slots__ = (
        "_held",
        "_out",
        "closing",
        "facts",
        "id",
        "max_queue_bytes",
        "topics",
        "transport",
        "user_id",
    )

    def __init__(
        self,
        connection_id: str,
        user_id: str,
        transport: Transport,
        *,
        max_queue_bytes: int,
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.id = connection_id
        self.user_id = user_id
        self.transport = transport
        self.max_queue_bytes = max_queue_bytes
        self.facts = facts or {}
        """What administrators may see of it: since, address, device, session."""
        self.closing: int | None = None
        """The code it is being closed with."""
        self.topics: frozenset[str] = frozenset()
        """What it is subscribed to; the registry keeps it."""
        self._out: Transport | None = None
        """The transport while the connection is open: after its hello, before its close."""
        self._held: list[Frame] = []

    def open(self, hello: Message, positions: Mapping[str, Position] | None = None) -> None:
        """Send the hello, then whatever arrived in the meantime.

        `positions` is where the streams go on that the connection has: the next of each is sent.
        """
        if self.closing is not None:
            return
        held, self._held = self._held, []
        self._out = self.transport
        self.send(hello, positions)
        for frame in held:
            self.send_frame(frame)

    def send(self, message: Message, positions: Mapping[str, Position] | None = None) -> None:
        """Send a message to this socket alone, after which streams go on at `positions`."""
        self.send_frame(Frame(message.encode(), positions or {}))

    def send_frame(self, frame: Frame) -> None:
        """Send a finished frame; a socket too slow for what waits is closed with 4002."""
        self.send_to_each((self,), frame)

    @staticmethod
    def send_to_each(connections: Iterable[Connection], frame: Frame) -> None:
        """The same to many: one call, whatever their number."""
        for connection in connections:
            out = connection._out
            if out is None:
                connection._hold(frame)
            elif not out.write(frame, connection.max_queue_bytes):
                connection.close(CloseCode.SLOW_CONSUMER)

    def _hold(self, frame: Frame) -> None:
        if self.closing is not None:
            return
        if sum(len(held.payload) for held in self._held) > self.max_queue_bytes:
            self.close(CloseCode.SLOW_CONSUMER)
        else:
            self._held.append(frame)

    def close(self, code: int, reason: str = "") -> None:
        """Close the socket; only the first call counts."""
        if self.closing is None:
            self.closing = code
            self._out = None
            self._held = []
            self.transport.close(code, reason)
