"""Invoices, which the mesh service `invoices` stores."""

from __future__ import annotations

from pydantic import BaseModel

from bff import MeshEvent, Messenger, RealtimeRouter

realtime = RealtimeRouter()


class Invoice(BaseModel):
    number: str
    user_id: str
    total: str


class GetInvoice(BaseModel):
    number: str


class Paid(BaseModel):
    number: str


realtime.expose("invoices", methods=["list"], scopes=["invoices"], result=list[Invoice])
realtime.expose("invoices", methods=["get"], scopes=["invoices"], params=GetInvoice, result=Invoice)

paid = realtime.emits("invoice.paid", Paid)


@realtime.event("invoices.*.paid", name="invoice_paid")
async def invoice_paid(event: MeshEvent, messenger: Messenger) -> None:
    invoice = Invoice.model_validate(event.payload)
    await messenger.to_user(invoice.user_id, paid(Paid(number=invoice.number)))
