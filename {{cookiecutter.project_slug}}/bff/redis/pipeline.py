"""Many commands in one round trip, whoever sends them; and the scripts that run in Redis."""

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
    """Sends the commands of one turn of the event loop together.

    A thousand tasks that each send one command then cost what one pipeline costs.
    """

    def __init__(self, redis: RedisClient) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_ordered = False
        """Whether Redis does commands in the order in which they are submitted, whatever keys."""
        self._executor: CommandExecutor
        if type(redis) is Redis:
            self._executor, self._is_ordered = MultiplexedConnection(redis, self._settle), True
        else:
            self._executor = BatchExecutor(redis, self._settle)
        self._scripts: dict[str, str] = {}

    def script(self, text: str) -> str:
        """Take in a Lua script; returns the digest that `EVALSHA` wants."""
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self._scripts[digest] = text
        return digest

    def submit(
        self, *command: EncodableT, after: asyncio.Future[Any] | None = None
    ) -> asyncio.Future[Any]:
        """Send a command with the others of this turn; the future holds its answer.

        A key, or a channel, is the first argument, or stands where `EVALSHA` has it. It is done
        `after` one that was submitted before: on one server it is anyway, in a cluster it waits.
        """
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        sent = PendingCommand(command, answer)
        if after is None or self._is_ordered:
            self._executor.send(sent)
        else:
            after.add_done_callback(lambda _: self._executor.send(sent))
        return answer

    async def read_hash(self, key: str) -> dict[bytes, bytes]:
        """A whole hash."""
        answer: dict[bytes, bytes] | list[bytes] = await self.submit("HGETALL", key)
        if isinstance(answer, dict):
            return answer
        return dict(zip(answer[::2], answer[1::2], strict=True))

    async def close(self) -> None:
        """Let go of connections."""
        await self._executor.close()

    def _settle(self, sent: PendingCommand, result: Any) -> None:
        if isinstance(result, NoScriptError):
            digest = str(sent.command[1])
            self._executor.send(
                PendingCommand(("EVAL", self._scripts[digest], *sent.command[2:]), sent.answer)
            )
        elif isinstance(result, Exception):
            sent.fail(result)
        elif not sent.answer.done():
            sent.answer.set_result(result)


class Script:
    """A Lua script. All keys of one call must lie in one slot."""

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
        """Run it; what else is sent in this turn shares the round trip."""
        return self._pipeline.submit("EVALSHA", self._digest, len(keys), *keys, *args, after=after)
