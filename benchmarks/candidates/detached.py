"""A bare detached handshake, without authentication: FastAPI accepts on uvicorn's own WebSocket
protocol, then the socket leaves its ASGI task.

The benchmarks compare our handshake with it, because it does not change with the template.
"""

from __future__ import annotations

import sys
from typing import Any

from bff.server.run import Server
from fastapi import FastAPI, Request, WebSocket
from uvicorn import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from benchmarks.candidates.drive import Drive

_HELLO = b'\x81\x10{"positions":{}}'


class _Nowhere:
    """Takes the place of the queue of messages."""

    def put_nowait(self, _: object) -> None: ...


_NOWHERE: Any = _Nowhere()


class Detached(WebSocketsSansIOProtocol):
    """Outlives the call that accepted it, and lets go of what only that needed."""

    def handle_connect(self, event: Any) -> None:
        super().handle_connect(event)
        extensions: dict[str, Any] = self.scope["extensions"]
        extensions["socket"] = self

    async def run_asgi(self) -> None:
        await self.app(self.scope, self.receive, self.send)
        nothing: Any = None
        self.scope = self.request = self.response = nothing
        self.queue = _NOWHERE


app = FastAPI()


async def to_all(_: str) -> None: ...


drive = Drive(to_all)


@app.websocket("/ws")
async def websocket_endpoint(websocket: WebSocket) -> None:
    await websocket.accept()
    websocket.scope["extensions"]["socket"].transport.write(_HELLO)


@app.get("/bench/{command}")
async def command(command: str, request: Request) -> dict[str, object]:
    return await drive.run(command, request.query_params)


if __name__ == "__main__":
    config = Config(
        app,
        port=int(sys.argv[1]),
        ws=Detached,
        ws_per_message_deflate=False,
        log_level="warning",
    )
    Server(config).run()
