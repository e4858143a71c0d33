"""Automatic pipelining of commands, and Lua scripts."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError
from redis.typing import EncodableT

from bff.redis.batch import BatchExecutor
from bff.redis.client import RedisClient
from bff.redis.connection import MultiplexedConnection
from bff.redis.executor import CommandExecutor, PendingCommand


class AutoPipeline:
    """Sends all commands of one event loop iteration in one round trip.

    A thousand tasks that send one command each then cost as much as one pipeline.
    """

    def __init__(self, redis: RedisClient) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_ordered = False
        """Whether Redis executes all commands in the order of `submit`, whatever their keys."""
        self._executor: CommandExecutor
        if type(redis) is Redis:
            self._executor, self._is_ordered = MultiplexedConnection(redis, self._on_reply), True
        else:
            self._executor = BatchExecutor(redis, self._on_reply)
        self._scripts: dict[str, str] = {}

    def script(self, text: str) -> str:
        """Register a Lua script; returns its SHA-1 digest for `EVALSHA`."""
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self._scripts[digest] = text
        return digest

    def submit(
        self, *args: EncodableT, after: asyncio.Future[Any] | None = None
    ) -> asyncio.Future[Any]:
        """Send a command together with the others of this event loop iteration.

        The first argument after the command's name must be its key or channel (`EVALSHA` has its
        own order). `after` is the reply of a command that was submitted before: this command is
        executed later than that one. A single server guarantees this anyway; in a cluster the
        command is sent when that reply has arrived.

        Returns:
            A future for the reply. It raises `RedisError`, `OSError` or `TimeoutError`. If it is
            not awaited, an error is ignored.
        """
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        command = PendingCommand(args, reply)
        if after is None or self._is_ordered:
            self._executor.send(command)
        else:
            after.add_done_callback(lambda _: self._executor.send(command))
        return reply

    async def read_hash(self, key: str) -> dict[bytes, bytes]:
        """All fields of a hash."""
        reply: dict[bytes, bytes] | list[bytes] = await self.submit("HGETALL", key)
        if isinstance(reply, dict):
            return reply
        return dict(zip(reply[::2], reply[1::2], strict=True))

    async def close(self) -> None:
        """Close the connections; pending commands fail."""
        await self._executor.close()

    def _on_reply(self, command: PendingCommand, reply: Any) -> None:
        if isinstance(reply, NoScriptError):
            digest = str(command.args[1])
            self._executor.send(
                PendingCommand(("EVAL", self._scripts[digest], *command.args[2:]), command.reply)
            )
        elif isinstance(reply, Exception):
            command.fail(reply)
        elif not command.reply.done():
            command.reply.set_result(reply)


class Script:
    """A Lua script. All keys of one call must be in the same hash slot."""

    def __init__(self, pipeline: AutoPipeline, text: str) -> None:
        self._pipeline = pipeline
        self._digest = pipeline.script(text)

    def __call__(
        self,
        keys: Sequence[str],
        args: Sequence[EncodableT],
        *,
        after: asyncio.Future[Any] | None = None,
    ) -> asyncio.Future[Any]:
        """Run the script; `after` as in `AutoPipeline.submit`."""
        return self._pipeline.submit("EVALSHA", self._digest, len(keys), *keys, *args, after=after)
