"""What the BFF offers, in two lists. A new feature is a new file here and a line in each list."""

from __future__ import annotations

from app.routes import (
    account,
    admin,
    chat,
    health,
    invoices,
    ledger,
    moderation,
    notes,
    orders,
    payments,
    profile,
    reports,
    rooms,
    seats,
    websocket,
)
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
    profile.router,
    notes.router,
    moderation.router,
    account.router,
]
"""FastAPI routers."""

REALTIME = [
    services.realtime,
    admin.realtime,
    orders.realtime,
    chat.realtime,
    rooms.realtime,
    invoices.realtime,
    reports.realtime,
    seats.realtime,
    ledger.realtime,
    payments.realtime,
    account.realtime,
]
"""What browsers may call and subscribe to, and how mesh events and calls are handled."""
