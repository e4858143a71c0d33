"""One multiplexed connection to a Redis server, used by all commands."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ReadOnlyError
from redis.exceptions import TimeoutError as RedisTimeoutError

from bff.redis.executor import OnReply, PendingCommand, encode, fail_all

_REPLY_SECONDS: Final = 5.0
"""How long Redis may send no reply while commands are in flight."""
_MAX_IN_FLIGHT: Final = 8_000
"""Commands that may await their reply at the same time; others wait to be sent."""
_MAX_WRITES: Final = 4
"""Writes that may await their replies at the same time. Commands that come meanwhile share the next
write: under load a write, which is a system call, costs more than the commands in it."""
_RETRY_SECONDS: Final = (0.05, 0.15)
"""Minimum and maximum delay after a failed connection attempt."""
_NO_LINGER: Final = struct.pack("ii", 1, 0)


class MultiplexedConnection:
    """A `CommandExecutor` for one Redis server.

    A command needs no connection from a pool, no task and no timer. After a lost connection it
    reconnects lazily, on the next command.
    """

    def __init__(self, redis: Redis, on_reply: OnReply) -> None:
        self._pool = redis.connection_pool
        self._on_reply = on_reply
        self._waiting: deque[PendingCommand] = deque()
        """Not sent yet: a flush is scheduled, or the connection is being opened or is full."""
        self._connected: _Connected | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._refusal: Exception | None = None
        """Commands fail with this: for a moment after a failed attempt, always after `close`."""

    def send(self, command: PendingCommand) -> None:
        if not self._waiting:
            command.reply.get_loop().call_soon(self._flush)
        self._waiting.append(command)

    async def close(self) -> None:
        self._refusal = RedisConnectionError("closed")
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connected is not None:
            self._connected.abort(self._refusal)

    def _flush(self) -> None:
        waiting, connected = self._waiting, self._connected
        if not waiting:
            return
        if self._refusal is not None:
            self._fail_waiting(self._refusal)
        elif connected is not None:
            # Again if commands were not sent, cancelled ones for example: they have no reply, which
            # would cause the next flush.
            while waiting and (room := connected.room):
                commands = [waiting.popleft() for _ in range(min(room, len(waiting)))]
                connected.send([command for command in commands if not command.reply.cancelled()])
        elif self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        """Connect with redis-py, which knows addresses, TLS, passwords and Sentinel."""
        try:
            connection: Any = self._pool.make_connection()  # type: ignore[no-untyped-call]
            await connection.connect()
            if connection._writer.is_closing() or connection._reader.at_eof():
                # Its end would not be reported again.
                await connection.disconnect(nowait=True)
                raise RedisConnectionError("the connection was lost")
        except (Exception, asyncio.CancelledError) as error:
            self._connecting = None
            if not isinstance(error, Exception):
                self._fail_waiting(RedisConnectionError("closed"))
                raise
            self._fail_waiting(error)
            self._refuse_for_a_moment(error)
        else:
            self._connecting = None
            self._connected = _Connected(
                connection._writer, self._on_reply, self._flush, self._on_lost
            )
            connection._reader = connection._writer = None
            self._flush()

    def _on_lost(self, error: Exception) -> None:
        self._connected = None
        if isinstance(error, RedisTimeoutError):
            # Waiting commands would time out too.
            self._fail_waiting(error)
        self._flush()

    def _refuse_for_a_moment(self, error: Exception) -> None:
        """Make no new connection attempt for a moment, however many commands are sent."""
        self._refusal = error
        delay = random.uniform(*_RETRY_SECONDS)  # noqa: S311
        asyncio.get_running_loop().call_later(delay, self._allow_retry, error)

    def _allow_retry(self, error: Exception) -> None:
        if self._refusal is error:
            self._refusal = None

    def _fail_waiting(self, error: Exception) -> None:
        fail_all(self._waiting, error)
        self._waiting.clear()


class _Connected(asyncio.Protocol):
    """An open connection. Redis replies in the order of the commands."""

    def __init__(
        self,
        writer: asyncio.StreamWriter,
        on_reply: OnReply,
        on_room: Callable[[], None],
        on_lost: Callable[[Exception], None],
    ) -> None:
        self.in_flight: Final[deque[PendingCommand]] = deque()
        self.writes: Final[deque[PendingCommand]] = deque()
        """The last command of each write that still awaits replies."""
        self._writer = writer
        """Kept, because a StreamWriter closes its transport when it is garbage collected."""
        self._transport = writer.transport
        self._on_reply = on_reply
        self._on_room = on_room
        self._on_lost = on_lost
        self._error: Exception = RedisConnectionError("the connection was lost")
        self._replies = hiredis.Reader(
            protocolError=InvalidResponse, replyError=cast("Any", DefaultParser.parse_error)
        )
        self._active_at = 0.0
        """When the last reply came, or the first command was sent after it."""
        self._loop = asyncio.get_running_loop()
        self._watchdog: asyncio.TimerHandle | None = None
        self._transport.set_protocol(self)

    @property
    def room(self) -> int:
        """How many commands may be sent now."""
        return 0 if len(self.writes) >= _MAX_WRITES else _MAX_IN_FLIGHT - len(self.in_flight)

    def send(self, commands: list[PendingCommand]) -> None:
        if not self.in_flight:
            self._active_at = self._loop.time()
        encoded_commands = []
        for command in commands:
            if (encoded := encode(command)) is not None:
                encoded_commands.append(encoded)
                self.in_flight.append(command)
        if encoded_commands:
            self.writes.append(self.in_flight[-1])
            self._transport.write(b"".join(encoded_commands))
        if self._watchdog is None:
            self._watchdog = self._loop.call_later(_REPLY_SECONDS, self._check)

    def abort(self, error: Exception) -> None:
        """Reset the connection. The kernel drops what it has not sent yet: otherwise Redis could
        execute it after the commands of the next connection."""
        self._error = error
        raw = self._transport.get_extra_info("socket")
        with suppress(OSError):  # already closed
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._active_at = self._loop.time()
        replies, in_flight, on_reply = self._replies, self.in_flight, self._on_reply
        writes = self.writes
        replies.feed(data)
        was_full = not self.room
        while in_flight and (reply := replies.gets()) is not False:
            command = in_flight.popleft()
            if command is writes[0]:
                writes.popleft()
            on_reply(command, reply)
            if reply.__class__ is ReadOnlyError:
                self.abort(RedisConnectionError("the master has become a replica"))
        if was_full:
            self._on_room()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
        fail_all(self.in_flight, self._error)
        self.in_flight.clear()
        self.writes.clear()
        self._on_lost(self._error)

    def _check(self) -> None:
        """Abort the connection when Redis has stopped replying."""
        self._watchdog = None
        if not self.in_flight:
            return
        silence = self._loop.time() - self._active_at
        if silence >= _REPLY_SECONDS:
            self.abort(RedisTimeoutError(f"no reply for {silence:.0f} s"))
        else:
            self._watchdog = self._loop.call_later(_REPLY_SECONDS - silence, self._check)
