"""The interface between a connection and the server that sends its frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from bff.connections.frames import Frame

EXTENSION: Final = "bff.detachable"
"""The key in the ASGI scope's `extensions` under which `bff serve` offers a `Detachable`."""
ABORT: Final = "bff.abort"
"""The key in `extensions` of a function that closes an HTTP connection and drops its buffer."""
PEER_TIMEOUT: Final = "bff.peer_timeout"
"""The key in `extensions` of a function that takes seconds: from then on TCP closes an HTTP
connection whose peer acknowledges nothing, or has no room for data, for that time."""


class Transport(Protocol):
    """Sends the frames of one connection, in order, and buffers those that must wait."""

    @property
    def buffered(self) -> int:
        """Bytes that the operating system has not accepted yet."""

    def write(self, frame: Frame, limit: int) -> bool:
        """Send or buffer a frame. False, and nothing is sent, when the buffer is not empty and
        would exceed `limit` bytes. After `close` it does nothing.
        """

    async def drained(self) -> None:
        """Wait until the buffer has room again, or the connection is closed."""

    def close(self, code: int, reason: str) -> None:
        """Send the buffered frames, then close. Only the first call has an effect.

        With the code `SLOW_CONSUMER` the buffered frames are dropped.
        """


class Detachable(Transport, Protocol):
    """A transport that can outlive the ASGI call that accepted it."""

    def detach(
        self, receive: Callable[[str | bytes], None], closed: Callable[[int, bool], None]
    ) -> bool:
        """From now on call `receive` with each frame, and at the end `closed` with the close code
        and whether the server closed the connection.

        Both run in a copy of the caller's context variables. False when the connection is closed
        already.
        """
