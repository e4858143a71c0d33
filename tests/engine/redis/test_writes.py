"""Writes of redis-py's connections, which the engine changes: errors, timeouts, cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from bff.redis.client import create_client, why
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError


class Writer:
    """A stream writer, whose `drain` is the test's."""

    def __init__(self, drain: Any) -> None:
        self.drain = drain
        self.written = b""
        self.is_closed = False

    def writelines(self, parts: Iterable[bytes]) -> None:
        self.written += b"".join(parts)

    def close(self) -> None:
        self.is_closed = True


def opened(writer: Writer, said: bytes = b"", query: str = "") -> Any:
    """A connection that is open, on which Redis has said this."""
    client: Any = create_client(f"redis://127.0.0.1:1/0{query}")
    connection = client.connection_pool.make_connection()
    connection._reader = asyncio.StreamReader()
    connection._reader.feed_data(said)
    connection._writer = writer
    return connection


def failing(error: Exception) -> Any:
    async def drain() -> None:
        raise error

    return drain


async def never() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            b"-ERR max number of clients reached\r\n-ERR more\r\n",
            "Redis refused the connection: ERR max number of clients reached (maxclients)",
        ),
        (b"-DENIED protected mode\r\n", "Redis refused the connection: DENIED protected mode"),
        (b"+OK\r\n", "Error while writing to socket: reset"),
        (b"", "Error while writing to socket: reset"),
    ],
)
@pytest.mark.parametrize("error", [OSError("reset"), RuntimeError("reset")], ids=repr)
async def test_a_write_that_fails_says_what_redis_has_said(
    said: bytes, reason: str, error: Exception
) -> None:
    writer = Writer(failing(error))
    connection = opened(writer, said)
    with pytest.raises(RedisConnectionError) as raised:
        await connection.send_packed_command([b"PING"])
    assert str(raised.value) == reason
    assert writer.is_closed
    assert not connection.is_connected


async def test_a_write_that_is_not_taken_in_time_is_a_timeout() -> None:
    writer = Writer(never)
    connection = opened(writer, query="?socket_timeout=0.05")
    with pytest.raises(RedisTimeoutError, match="Timeout writing"):
        await connection.send_packed_command([b"PING"])
    assert writer.is_closed


async def test_a_write_that_is_cancelled_closes_the_connection() -> None:
    """A part of the command may be sent: the next command must not follow it."""
    writer = Writer(never)
    connection = opened(writer)
    sending = asyncio.create_task(connection.send_packed_command([b"PING"]))
    await asyncio.sleep(0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    assert writer.is_closed


@pytest.mark.parametrize("command", ["PING", b"PING", [b"PI", b"NG"]], ids=repr)
async def test_a_command_may_be_text_bytes_or_pieces(command: Any) -> None:
    async def drain() -> None: ...

    writer = Writer(drain)
    connection = opened(writer)
    await connection.send_packed_command(command)
    assert writer.written == b"PING"
    assert not writer.is_closed


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError("no route"), "OSError: no route"),
        (TimeoutError(), "TimeoutError: no answer"),
    ],
)
def test_log_lines_say_why(error: Exception, text: str) -> None:
    assert why(error) == text
