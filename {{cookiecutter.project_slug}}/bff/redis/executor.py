"""What brings commands to Redis and answers back, for whoever collects them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import hiredis
from redis.exceptions import DataError
from redis.typing import EncodableT


class PendingCommand(NamedTuple):
    """A command that somebody waits for."""

    command: tuple[EncodableT, ...]
    answer: asyncio.Future[Any]

    def fail(self, error: Exception) -> None:
        """Tell whoever still waits; one that nobody awaits any more is no news."""
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()


Settle = Callable[[PendingCommand, Any], None]
"""Is given each answer as Redis gives it, be it an error."""


def packed(sent: PendingCommand) -> bytes | None:
    """A command as it goes over the wire. One that cannot, because of a lone surrogate or of a
    value that is neither text nor number, is None, and fails."""
    try:
        wire: bytes = hiredis.pack_command(sent.command)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        sent.fail(DataError(f"no command for Redis: {error}"))
        return None
    return wire


class CommandExecutor(Protocol):
    """Commands of one turn of the event loop leave together, once: what is lost on the way is not
    sent again, since Redis may have done it."""

    def send(self, sent: PendingCommand) -> None:
        """Bring a command to Redis. When Redis cannot be asked, the answer is `RedisError`,
        `OSError` or `TimeoutError`: what Redis has done then, nobody knows."""

    async def close(self) -> None:
        """Let go of connections; who still waits fails."""


def fail_all(commands: Iterable[PendingCommand], error: Exception) -> None:
    """Tell everybody who still waits."""
    for one in commands:
        one.fail(error)
