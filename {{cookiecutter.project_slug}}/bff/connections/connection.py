"""One connection of one user: a WebSocket or an event stream."""

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
    """`<instance>.<random>`: a connection id names the instance that holds the connection."""
    return f"{instance_id}.{secrets.token_urlsafe(12)}"


def instance_of(connection_id: str) -> str:
    """The instance that holds a connection."""
    return connection_id.partition(".")[0]


class Connection:
    """Sends frames to one client, in the order of the calls.

    Frames that are sent before `open` wait, so that the hello is always the first frame.
    """

    __slots__ = (
        "_out",
        "_waiting",
        "close_code",
        "details",
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
        details: dict[str, Any] | None = None,
    ) -> None:
        self.id = connection_id
        self.user_id = user_id
        self.transport = transport
        self.max_queue_bytes = max_queue_bytes
        self.details = details or {}
        """Shown to administrators: `connected_at` (Unix time), `address`, `user_agent` and
        `session_id`."""
        self.close_code: int | None = None
        """The close code, once the connection is closing."""
        self.topics: frozenset[str] = frozenset()
        """The topics it is subscribed to. Set by the registry."""
        self._out: Transport | None = None
        """The transport while the connection is open: from the hello to the close."""
        self._waiting: list[Frame] = []

    @property
    def is_open(self) -> bool:
        """Whether the hello was sent and the connection is not closing."""
        return self._out is not None

    def open(self, hello: Message, cursor: Mapping[str, Position] | None = None) -> None:
        """Send the hello, then the frames that waited for it. `cursor` is as in `send`."""
        if self.close_code is not None:
            return
        waiting, self._waiting = self._waiting, []
        self._out = self.transport
        self.send(hello, cursor)
        for frame in waiting:
            self.send_frame(frame)

    def send(self, message: Message, cursor: Mapping[str, Position] | None = None) -> None:
        """Send a message to this connection only. `cursor` is what the client has read once it has
        this message: for each stream named, a position."""
        self.send_frame(Frame(message.encode(), cursor or {}))

    def send_frame(self, frame: Frame) -> None:
        """Send a frame. When `max_queue_bytes` are buffered already, close with 4002 instead."""
        self.send_to_each((self,), frame)

    @staticmethod
    def send_to_each(connections: Iterable[Connection], frame: Frame) -> None:
        """`send_frame` for many connections, in one call."""
        for connection in connections:
            out = connection._out
            if out is None:
                connection._hold(frame)
            elif not out.write(frame, connection.max_queue_bytes):
                connection.close(CloseCode.SLOW_CONSUMER)

    def _hold(self, frame: Frame) -> None:
        if self.close_code is not None:
            return
        if sum(len(waiting.payload) for waiting in self._waiting) > self.max_queue_bytes:
            self.close(CloseCode.SLOW_CONSUMER)
        else:
            self._waiting.append(frame)

    def close(self, code: int, reason: str = "") -> None:
        """Close the connection. Only the first call has an effect."""
        if self.close_code is None:
            self.close_code = code
            self._out = None
            self._waiting = []
            self.transport.close(code, reason)
