"""A bare detached handshake: FastAPI accepts, our server detaches, and nobody asks who it is."""

from __future__ import annotations

import sys

from app.connections.frames import Frame
from app.connections.transport import EXTENSION
from app.server.run import configuration
from app.settings import Settings
from fastapi import FastAPI, Request, WebSocket
from uvicorn import Server

from benchmarks.candidates.drive import Drive

app = FastAPI()


async def to_all(_: str) -> None: ...


drive = Drive(to_all)


@app.websocket("/ws")
async def websocket_endpoint(websocket: WebSocket) -> None:
    await websocket.accept()
    detachable = websocket.scope["extensions"][EXTENSION]
    detachable.detach(lambda _: None, lambda _: None)
    detachable.write(Frame(b'{"positions":{}}'), limit=1024)


@app.get("/bench/{command}")
async def command(command: str, request: Request) -> dict[str, object]:
    return await drive.run(command, request.query_params)


if __name__ == "__main__":
    Server(configuration(Settings(), app, port=int(sys.argv[1]), log_level="warning")).run()
