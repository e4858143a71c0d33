"""Invoices, which the mesh service `invoices` stores."""

from __future__ import annotations

from bff import MeshEvent, Messenger, RealtimeRouter

realtime = RealtimeRouter()

realtime.expose("invoices", methods=["list", "get"], scopes=["invoices"])


@realtime.event("invoices.*.paid", name="invoice_paid")
async def invoice_paid(event: MeshEvent, messenger: Messenger) -> None:
    invoice = event.payload
    await messenger.to_user(invoice["user_id"], "invoice.paid", {"number": invoice["number"]})
