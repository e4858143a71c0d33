"""The ledger: a service that speaks JSON-RPC, on a vhost of its own."""

from __future__ import annotations

from app.realtime.router import RealtimeRouter

realtime = RealtimeRouter()

realtime.expose("ledger", methods=["balance"], scopes=["invoices"])
