"""All routes of the BFF. For a new feature, add a file here and a line in each list."""

from __future__ import annotations

from app.routes import admin, health, orders, websocket
from bff.endpoints import rpc, services, sign_in, sse, tickets

HTTP = [
    websocket.router,
    sse.router,
    rpc.router,
    tickets.router,
    sign_in.router,
    health.router,
    admin.router,
    orders.router,
]
"""FastAPI routers."""

REALTIME = [
    services.realtime,
    admin.realtime,
    orders.realtime,
]
"""Realtime routers: what browsers call, subscribe to and get; mesh events, methods for services."""
