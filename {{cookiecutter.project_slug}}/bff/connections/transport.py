"""What a connection needs from whatever carries its frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from bff.connections.frames import Frame

EXTENSION: Final = "bff.detachable"
"""Under this name of the ASGI scope's `extensions` our server offers a `Detachable`."""
ABORT: Final = "bff.abort"
"""Under this name a function that cuts an HTTP connection, whatever still waits for its peer."""


class Transport(Protocol):
    """One socket's way out. What cannot leave at once is buffered, in order."""

    @property
    def buffered(self) -> int:
        """Bytes taken but not yet handed to the operating system."""

    def write(self, frame: Frame, limit: int) -> bool:
        """Send a frame, unless others are buffered and it would make them more than `limit` bytes:
        False. After `close` it does nothing.
        """

    async def drained(self) -> None:
        """Wait until the peer has room for more, or the socket is gone."""

    def close(self, code: int, reason: str) -> None:
        """Send what is buffered, then close. Only the first call counts.

        What waits for a slow consumer is not sent.
        """


class Detachable(Transport, Protocol):
    """A transport that can outlive the ASGI call that accepted it."""

    def detach(self, receive: Callable[[str | bytes], None], closed: Callable[[int], None]) -> bool:
        """Hand over each frame from now on, and in the end the close code, once.

        Both run in a copy of the caller's context variables. False when the socket is gone.
        """
