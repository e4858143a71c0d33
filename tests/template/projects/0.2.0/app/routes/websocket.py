"""`/ws`: where browsers connect."""

from __future__ import annotations

from fastapi import APIRouter, WebSocket

from bff.endpoints import CallerDep, serve_websocket

router = APIRouter()


@router.websocket("/ws")
async def websocket(websocket: WebSocket, caller: CallerDep) -> None:
    """A FastAPI route like any other: dependencies that you add run before the handshake is
    accepted, and an `HTTPException` or a `Problem` refuses it."""
    await serve_websocket(websocket, caller)
