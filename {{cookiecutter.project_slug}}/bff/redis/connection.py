"""One connection to Redis for everybody, as long as it holds."""

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

from bff.redis.executor import PendingCommand, Settle, fail_all, packed

_SECONDS: Final = 5.0
"""That Redis may take for an answer."""
_UNDER_WAY: Final = 8_000
"""Commands that may wait for an answer at a time; others wait to be sent."""
_PAUSE: Final = (0.05, 0.15)
"""Seconds, between which, until the next attempt after one that failed."""
_NO_LINGER: Final = struct.pack("ii", 1, 0)


class MultiplexedConnection:
    """A carrier for one Redis: no connection is looked for, no task made, no timer set for a
    command. Whoever finds the line broken connects it anew."""

    def __init__(self, redis: Redis, settle: Settle) -> None:
        self._pool = redis.connection_pool
        self._settle = settle
        self._waiting: deque[PendingCommand] = deque()
        """Not sent yet: a flush is on its way, or the line is being connected or is full."""
        self._connected: _Connected | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._refusal: Exception | None = None
        """Why nothing can be sent for the moment; once it is closed, for good."""

    def send(self, sent: PendingCommand) -> None:
        if not self._waiting:
            sent.answer.get_loop().call_soon(self._flush)
        self._waiting.append(sent)

    async def close(self) -> None:
        self._refusal = RedisConnectionError("closed")
        if self._connecting is not None:
            self._connecting.cancel()
        if self._connected is not None:
            self._connected.end(self._refusal)

    def _flush(self) -> None:
        waiting, connected = self._waiting, self._connected
        if not waiting:
            return
        if self._refusal is not None:
            self._fail_waiting(self._refusal)
        elif connected is not None:
            room = _UNDER_WAY - len(connected.under_way)
            commands = [waiting.popleft() for _ in range(min(room, len(waiting)))]
            connected.send([one for one in commands if not one.answer.cancelled()])
        elif self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        """redis-py's part: addresses, TLS, passwords, and which of several is the master."""
        try:
            connection: Any = self._pool.make_connection()  # type: ignore[no-untyped-call]
            await connection.connect()
        except (Exception, asyncio.CancelledError) as error:
            self._connecting = None
            if not isinstance(error, Exception):
                self._fail_waiting(RedisConnectionError("closed"))
                raise
            self._fail_waiting(error)
            self._refuse(error)
        else:
            self._connecting = None
            self._connected = _Connected(connection._writer, self._settle, self._flush, self._lose)
            connection._reader = connection._writer = None
            self._flush()

    def _lose(self, error: Exception) -> None:
        self._connected = None
        if isinstance(error, RedisTimeoutError):
            # Whoever waits behind would only wait as long.
            self._fail_waiting(error)
        self._flush()

    def _refuse(self, error: Exception) -> None:
        """Try no connection for a moment, however many ask."""
        self._refusal = error
        pause = random.uniform(*_PAUSE)  # noqa: S311
        asyncio.get_running_loop().call_later(pause, self._try_again, error)

    def _try_again(self, error: Exception) -> None:
        if self._refusal is error:
            self._refusal = None

    def _fail_waiting(self, error: Exception) -> None:
        fail_all(self._waiting, error)
        self._waiting.clear()


class _Connected(asyncio.Protocol):
    """The line while it holds. Answers come in the order of the commands."""

    def __init__(
        self,
        writer: asyncio.StreamWriter,
        settle: Settle,
        has_room: Callable[[], None],
        lost: Callable[[Exception], None],
    ) -> None:
        self.under_way: Final[deque[PendingCommand]] = deque()
        self._writer = writer
        """Kept because it would close the transport on its own end."""
        self._transport = writer.transport
        self._settle = settle
        self._has_room = has_room
        self._lost = lost
        self._error: Exception = RedisConnectionError("the connection was lost")
        self._answers = hiredis.Reader(
            protocolError=InvalidResponse, replyError=cast("Any", DefaultParser.parse_error)
        )
        self._heard_at = 0.0
        """When the last answer came, or the first command was sent after it."""
        self._loop = asyncio.get_running_loop()
        self._watch: asyncio.TimerHandle | None = None
        self._transport.set_protocol(self)

    def send(self, commands: list[PendingCommand]) -> None:
        if not self.under_way:
            self._heard_at = self._loop.time()
        wires = []
        for one in commands:
            if (wire := packed(one)) is not None:
                wires.append(wire)
                self.under_way.append(one)
        self._transport.write(b"".join(wires))
        if self._watch is None:
            self._watch = self._loop.call_later(_SECONDS, self._look)

    def end(self, error: Exception) -> None:
        """Cut the line. What the system still holds of it is not sent either: Redis would do it
        after what the next line brings."""
        self._error = error
        raw = self._transport.get_extra_info("socket")
        with suppress(OSError):  # it is closed already
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        answers, under_way, settle = self._answers, self.under_way, self._settle
        answers.feed(data)
        was_full = len(under_way) >= _UNDER_WAY
        while under_way and (answer := answers.gets()) is not False:
            settle(under_way.popleft(), answer)
            if answer.__class__ is ReadOnlyError:
                self.end(RedisConnectionError("the master has become a replica"))
        if was_full:
            self._has_room()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        fail_all(self.under_way, self._error)
        self.under_way.clear()
        self._lost(self._error)

    def _look(self) -> None:
        """Whether Redis still answers."""
        self._watch = None
        if not self.under_way:
            return
        silence = self._loop.time() - self._heard_at
        if silence >= _SECONDS:
            self.end(RedisTimeoutError(f"no answer for {silence:.0f} s"))
        else:
            self._watch = self._loop.call_later(_SECONDS - silence, self._look)
