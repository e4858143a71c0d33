"""A TCP proxy that can reset its connections or stall them."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Self

_CHUNK = 65_536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards connections to `port` to a server on this machine.

    While a direction is held its bytes wait, as in a network that loses every packet; nobody
    learns of it from TCP. After `release` they arrive, late; after `cut` they are lost.
    """

    def __init__(self, server_port: int) -> None:
        self.port = 0
        self._server_port = server_port
        self._to_server = asyncio.Event()
        self._from_server = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.release()

    async def start(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def hold(self, *, to_server: bool = False, from_server: bool = False) -> None:
        """Stall: forward no bytes, in one direction or both."""
        if to_server:
            self._to_server.clear()
        if from_server:
            self._from_server.clear()

    def release(self) -> None:
        """Forward bytes again."""
        self._to_server.set()
        self._from_server.set()

    def cut(self) -> None:
        """Reset every connection, on both sides."""
        for writer in self._writers:
            plug: socket.socket = writer.get_extra_info("socket")
            with suppress(OSError):
                plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine = {writer}
        self._writers.add(writer)
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
            mine.add(to_server)
            self._writers.add(to_server)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(_pump(reader, to_server, self._to_server))
                pumps.create_task(_pump(from_server, writer, self._from_server))
        except* OSError:
            pass
        finally:
            for each in mine:
                self._writers.discard(each)
                each.transport.abort()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, open_: asyncio.Event
) -> None:
    """Forward bytes until EOF. EOF in one direction ends both."""
    while True:
        await open_.wait()
        data = await reader.read(_CHUNK)
        await open_.wait()
        if not data:
            raise ConnectionAbortedError
        writer.write(data)
        await writer.drain()
