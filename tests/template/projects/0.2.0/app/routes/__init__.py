"""What the BFF offers."""

from __future__ import annotations

from app.routes import admin, health, notes, websocket
from bff.endpoints import rpc, services, sse, tickets

HTTP = [
    websocket.router,
    sse.router,
    rpc.router,
    tickets.router,
    health.router,
    admin.router,
    notes.router,
]

REALTIME = [
    services.realtime,
    notes.realtime,
]
