"""YOURS: one file per feature, HTTP endpoints, socket methods and event rules side by side.

A new feature is a new file here and a line in each list below that it has something for. `/ws` is
in none: `main.py` takes handshakes to it past the layers that only HTTP needs.
"""

from __future__ import annotations

from app.routes import admin, auth, events, health, mesh, orders, rpc

HTTP = (
    health.router,
    auth.router,
    events.router,
    rpc.router,
    admin.router,
    orders.router,
)

REALTIME = (mesh.realtime, orders.realtime)
