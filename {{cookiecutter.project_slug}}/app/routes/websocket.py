"""`/ws`: the WebSocket endpoint for browsers."""

from __future__ import annotations

from fastapi import APIRouter, WebSocket

from bff.endpoints import CallerDep, serve_websocket

router = APIRouter()


@router.websocket("/ws")
async def websocket(websocket: WebSocket, caller: CallerDep) -> None:
    """An ordinary FastAPI route. Dependencies that you add run before the handshake is accepted;
    an `HTTPException` or a `Problem` rejects it."""
    await serve_websocket(websocket, caller)
