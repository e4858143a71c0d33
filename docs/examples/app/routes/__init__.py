"""YOURS: one file per feature, HTTP endpoints, socket methods and event rules side by side.

A new feature is a new file here and a line in each list below that it has something for. `/ws` is
in none: `main.py` takes handshakes to it past the layers that only HTTP needs.
"""

from __future__ import annotations

from app.routes import (
    admin,
    auth,
    chat,
    events,
    health,
    invoices,
    ledger,
    mesh,
    notes,
    orders,
    payments,
    profile,
    reports,
    rooms,
    rpc,
    seats,
)

HTTP = (
    health.router,
    auth.router,
    events.router,
    rpc.router,
    admin.router,
    orders.router,
    profile.router,
    notes.router,
)

REALTIME = (
    mesh.realtime,
    orders.realtime,
    chat.realtime,
    invoices.realtime,
    ledger.realtime,
    payments.realtime,
    reports.realtime,
    seats.realtime,
    rooms.realtime,
)
