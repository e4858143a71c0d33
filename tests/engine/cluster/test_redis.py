"""The client raises only the errors of `UNAVAILABLE` while Redis is unavailable."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from bff.redis.client import UNAVAILABLE, _Connection, create_client
from bff.redis.pipeline import AutoPipeline
from redis.asyncio import Redis

uvloop = pytest.importorskip("uvloop", reason="there is no uvloop for Windows")


async def test_a_command_without_a_reply_is_not_sent_again() -> None:
    received = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while commands := await reader.read(4096):
            if b"PUBLISH" in commands:
                received.append(commands)
                break
            writer.write(b"+OK\r\n" * commands.count(b"*"))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        redis = create_client(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
        pipeline = AutoPipeline(redis)
        with pytest.raises(UNAVAILABLE):
            await pipeline.submit("PUBLISH", "channel", "one")
        answers = [pipeline.submit("PUBLISH", "channel", text) for text in ("two", "three")]
        for refused in await asyncio.gather(*answers, return_exceptions=True):
            assert isinstance(refused, UNAVAILABLE)
        await redis.aclose()
    assert len(received) == 2


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A Redis that replies OK to every command."""
    with contextlib.suppress(OSError):
        while commands := await reader.read(4096):
            writer.write(b"+OK\r\n" * commands.count(b"*"))
    writer.close()


async def _write_to_a_closed_transport() -> None:
    async with await asyncio.start_server(_answer, "127.0.0.1", 0) as server:
        redis = create_client(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
        assert isinstance(redis, Redis)
        connection = await redis.connection_pool.get_connection()  # type: ignore[no-untyped-call]
        connection._writer.transport.abort()
        await asyncio.sleep(0)
        try:
            await connection.send_command("PING")
        finally:
            await connection.disconnect(nowait=True)
            await redis.aclose()


def test_a_write_to_a_closed_transport_of_uvloop_raises_unavailable() -> None:
    with pytest.raises(UNAVAILABLE):
        uvloop.run(_write_to_a_closed_transport())


async def test_a_cancellation_just_as_a_send_completes_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`asyncio.wait_for` of Python 3.11 would lose it, and the task would never end."""
    async with await asyncio.start_server(_answer, "127.0.0.1", 0) as server:
        redis = create_client(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
        await redis.ping()
        sending: asyncio.Task[Any] = asyncio.create_task(redis.execute_command("PING"))
        send = _Connection._send_packed_command

        async def cancelled_when_done(connection: _Connection, command: list[bytes]) -> None:
            await send(connection, command)
            sending.cancel()

        monkeypatch.setattr(_Connection, "_send_packed_command", cancelled_when_done)
        with pytest.raises(asyncio.CancelledError):
            await sending
        await redis.aclose()


async def test_a_connection_connects_when_it_is_first_used() -> None:
    """A node of a cluster gives out connections that are not connected yet."""
    async with await asyncio.start_server(_answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        connection = _Connection(host="127.0.0.1", port=port, protocol=2)
        for _ in range(2):
            await connection.send_packed_command(b"*1\r\n$4\r\nPING\r\n")
            assert await connection.read_response() == b"OK"
            await connection.disconnect()
