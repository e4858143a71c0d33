"""A Redis in trouble raises what `UNAVAILABLE` names, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest
from bff.redis.client import UNAVAILABLE, _Connection, connect
from bff.redis.pipeline import AutoPipeline
from redis.asyncio import Redis

uvloop = pytest.importorskip("uvloop", reason="there is no uvloop for Windows")


async def test_a_command_that_is_not_answered_is_not_sent_again() -> None:
    received = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while commands := await reader.read(4096):
            if b"PUBLISH" in commands:
                received.append(commands)
                break
            writer.write(b"+OK\r\n" * commands.count(b"*"))
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        redis = connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
        pipeline = AutoPipeline(redis)
        with pytest.raises(UNAVAILABLE):
            await pipeline.submit("PUBLISH", "channel", "one")
        answers = [pipeline.submit("PUBLISH", "channel", text) for text in ("two", "three")]
        for refused in await asyncio.gather(*answers, return_exceptions=True):
            assert isinstance(refused, UNAVAILABLE)
        await redis.aclose()
    assert len(received) == 2


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Redis as far as a handshake goes: every command is OK."""
    with contextlib.suppress(OSError):
        while commands := await reader.read(4096):
            writer.write(b"+OK\r\n" * commands.count(b"*"))
    writer.close()


async def _write_to_a_closed_transport() -> None:
    async with await asyncio.start_server(_answer, "127.0.0.1", 0) as server:
        redis = connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
        assert isinstance(redis, Redis)
        connection = await redis.connection_pool.get_connection()  # type: ignore[no-untyped-call]
        connection._writer.transport.abort()
        await asyncio.sleep(0)
        try:
            await connection.send_command("PING")
        finally:
            await connection.disconnect(nowait=True)
            await redis.aclose()


def test_a_write_after_the_end_of_the_connection_is_no_defect_under_uvloop() -> None:
    with pytest.raises(UNAVAILABLE):
        uvloop.run(_write_to_a_closed_transport())


async def test_whoever_is_cancelled_as_a_send_is_done_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """`asyncio.wait_for` of Python 3.11 would go on: what was to end then never does."""
    async with await asyncio.start_server(_answer, "127.0.0.1", 0) as server:
        redis = connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
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
