"""Invoices: the answers of the service, and the event of a paid invoice."""

from __future__ import annotations

from typing import Any

from bff import Context, Service
from bff.testing import RunningBff

INVOICE = {"number": "2030-1", "user_id": "alice", "total": "12.50"}

invoices = Service("invoices")


@invoices.method("list")
async def list_invoices(context: Context) -> list[dict[str, Any]]:
    return [INVOICE] if context["user_id"] == INVOICE["user_id"] else []


async def test_users_see_only_their_own_invoices(bff: RunningBff) -> None:
    async with (
        bff.mesh_service(invoices),
        bff.browser("alice", ["invoices"]) as alice,
        bff.browser("bob", ["invoices"]) as bob,
    ):
        assert (await alice.request("invoices", "list"))["result"] == [INVOICE]
        assert (await bob.request("invoices", "list"))["result"] == []


async def test_invoices_require_a_scope(bff: RunningBff) -> None:
    async with bff.browser("bob", ["orders"]) as bob:
        answer = await bob.request("invoices", "list")
        assert answer["error"]["code"] == "forbidden"


async def test_the_event_of_a_paid_invoice_reaches_its_user(bff: RunningBff) -> None:
    async with bff.browser("alice") as alice:
        await bff.engine.mesh.publish("invoices.2030-1.paid", INVOICE)
        paid = await alice.event("invoice.paid")
        assert paid["event"] == {"number": "2030-1"}
