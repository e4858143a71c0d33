"""What the BFF offers, in two lists. A new feature is a new file here and a line in each list."""

from __future__ import annotations

from app.routes import admin, health, orders, websocket
from bff.endpoints import rpc, services, sse, tickets

HTTP = [
    websocket.router,
    sse.router,
    rpc.router,
    tickets.router,
    health.router,
    admin.router,
    orders.router,
]
"""FastAPI routers."""

REALTIME = [
    services.realtime,
    orders.realtime,
]
"""What browsers call over sockets, and what the mesh brings or calls."""
