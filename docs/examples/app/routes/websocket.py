"""`/ws`: where browsers connect."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, WebSocket

from app.dependencies import SettingsDep
from bff import Code, Problem
from bff.endpoints import CallerDep, serve_websocket

router = APIRouter()


async def check_tenant(settings: SettingsDep, x_tenant: Annotated[str, Header()] = "") -> None:
    """
    Raises:
        Problem: `forbidden`: the header `X-Tenant` is missing, or names another tenant.
    """
    if settings.tenant and x_tenant != settings.tenant:
        raise Problem(Code.FORBIDDEN, "This tenant is not served here")


@router.websocket("/ws", dependencies=[Depends(check_tenant)])
async def websocket(websocket: WebSocket, caller: CallerDep) -> None:
    """A FastAPI route like any other: dependencies that you add run before the handshake is
    accepted, and an `HTTPException` or a `Problem` refuses it."""
    await serve_websocket(websocket, caller)
