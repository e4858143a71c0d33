"""The interface between `AutoPipeline` and the two ways of sending commands to Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import hiredis
from redis.exceptions import DataError
from redis.typing import EncodableT


class PendingCommand(NamedTuple):
    """A command whose reply is awaited."""

    args: tuple[EncodableT, ...]
    reply: asyncio.Future[Any]

    def fail(self, error: Exception) -> None:
        """Set an error as the reply, unless the caller has cancelled the future."""
        if not self.reply.done():
            self.reply.set_exception(error)
            self.reply.exception()  # no "exception was never retrieved" when it is not awaited


OnReply = Callable[[PendingCommand, Any], None]
"""Is called with each command and its reply; an error reply is an exception object."""


def encode(command: PendingCommand) -> bytes | None:
    """A command in the Redis protocol. A command that cannot be encoded (a lone surrogate, an
    argument that is neither text nor a number) fails, and the result is None."""
    try:
        encoded: bytes = hiredis.pack_command(command.args)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        command.fail(DataError(f"cannot encode the Redis command: {error}"))
        return None
    return encoded


class CommandExecutor(Protocol):
    """Sends the commands of one event loop iteration together.

    Each command is sent once. It is not sent again after a lost connection, because Redis may
    have executed it.
    """

    def send(self, command: PendingCommand) -> None:
        """Send a command to Redis. When Redis is unavailable, its reply is a `RedisError`,
        `OSError` or `TimeoutError`; Redis may have executed the command nevertheless."""

    async def close(self) -> None:
        """Close the connections; pending commands fail."""


def fail_all(commands: Iterable[PendingCommand], error: Exception) -> None:
    """Set an error as the reply of each command."""
    for command in commands:
        command.fail(error)
