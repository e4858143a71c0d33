"""python-socketio on uvicorn with its Redis manager. Usage: … <port> <redis url>"""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import parse_qs

import socketio
import uvicorn
from fastapi import FastAPI, Request

from benchmarks.candidates.drive import Drive

sio = socketio.AsyncServer(
    async_mode="asgi",
    client_manager=socketio.AsyncRedisManager(sys.argv[2]),
    transports=["websocket"],
)
api = FastAPI()
drive = Drive(
    lambda text: sio.emit("bench", text),
    lambda user, text: sio.emit("bench", text, room=user),
)


@sio.event
async def connect(sid: str, environ: dict[str, Any]) -> None:
    await sio.enter_room(sid, parse_qs(environ["QUERY_STRING"])["user"][0])


@api.get("/bench/{command}")
async def command(command: str, request: Request) -> dict[str, Any]:
    return await drive.run(command, request.query_params)


if __name__ == "__main__":
    uvicorn.run(
        socketio.ASGIApp(sio, other_asgi_app=api),
        port=int(sys.argv[1]),
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        log_level="warning",
    )
