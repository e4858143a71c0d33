"""The proxy passes bytes, holds them back and cuts, as told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tests.chaos.proxy import Proxy

SECONDS = 10
SHORT = 0.1


@dataclass
class Line:
    """A connection through a proxy to a server that answers each line with the same line."""

    proxy: Proxy
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    heard: asyncio.Queue[bytes]

    async def answer(self) -> bytes:
        async with asyncio.timeout(SECONDS):
            return await self.reader.readline()


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while said := await reader.readline():
            heard.put_nowait(said)
            writer.write(said)

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        proxy = await Proxy(server.sockets[0].getsockname()[1]).start()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        yield Line(proxy, reader, writer, heard)
        writer.close()
        await proxy.stop()


async def test_it_passes_bytes_both_ways(line: Line) -> None:
    line.writer.write(b"one\n")
    assert await line.answer() == b"one\n"


@pytest.mark.parametrize("to_server", [True, False])
async def test_what_is_held_back_arrives_when_released(line: Line, to_server: bool) -> None:
    line.proxy.hold(to_server=to_server, from_server=not to_server)
    line.writer.write(b"one\n")
    answer = asyncio.create_task(line.answer())
    if not to_server:
        async with asyncio.timeout(SECONDS):
            assert await line.heard.get() == b"one\n"
    assert not (await asyncio.wait({answer}, timeout=SHORT))[0]
    assert line.heard.empty()
    line.proxy.release()
    assert await answer == b"one\n"


async def test_what_is_held_back_is_lost_when_cut(line: Line) -> None:
    line.proxy.hold(to_server=True)
    line.writer.write(b"one\n")
    await line.writer.drain()
    line.proxy.cut()
    with pytest.raises(ConnectionResetError):
        await line.answer()
    line.proxy.release()
    reader, writer = await asyncio.open_connection("127.0.0.1", line.proxy.port)
    writer.write(b"two\n")
    async with asyncio.timeout(SECONDS):
        assert await reader.readline() == b"two\n"
    assert line.heard.get_nowait() == b"two\n"
    writer.close()


async def test_a_server_that_is_away_is_a_closed_connection(line: Line) -> None:
    nobody = await Proxy(1).start()
    reader, writer = await asyncio.open_connection("127.0.0.1", nobody.port)
    async with asyncio.timeout(SECONDS):
        assert await reader.read() == b""
    writer.close()
    await nobody.stop()
