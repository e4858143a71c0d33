"""The floor: uvloop, a handshake by hand, one write of prepared bytes per message and socket."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import sys
from typing import cast
from urllib.parse import parse_qsl, urlsplit

import uvloop

from benchmarks.candidates.drive import Drive

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY = re.compile(rb"Sec-WebSocket-Key: (\S+)\r\n")

sockets: list[asyncio.Transport] = []


async def to_all(text: str) -> None:
    payload = text.encode()
    assert len(payload) < 126
    frame = bytes((0x81, len(payload))) + payload
    for one in sockets:
        one.write(frame)


drive = Drive(to_all)


class Protocol(asyncio.Protocol):
    """A socket, or the client's line for commands."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._upgraded = False

    def data_received(self, data: bytes) -> None:
        if self._upgraded:
            return
        if key := _KEY.search(data):
            accept = base64.b64encode(hashlib.sha1(key[1] + _GUID).digest())
            self._transport.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n"
            )
            self._upgraded = True
            sockets.append(self._transport)
        else:
            url = urlsplit(data.split(b" ", 2)[1].decode())
            self._task = asyncio.create_task(self._answer(url.path, dict(parse_qsl(url.query))))

    async def _answer(self, path: str, query: dict[str, str]) -> None:
        body = json.dumps(await drive.run(path.rpartition("/")[2], query)).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._upgraded:
            sockets.remove(self._transport)


async def main(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Protocol, "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
