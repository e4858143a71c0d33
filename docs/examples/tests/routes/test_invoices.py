"""Invoices: what the service answers and what it tells."""

from __future__ import annotations

from typing import Any

from app.main import create_app
from app.mesh.memory import MemoryBroker
from app.mesh.service import Context, Service
from app.settings import Settings
from tests.running import run

INVOICE = {"number": "2030-1", "user_id": "alice", "total": "12.50"}

invoices = Service("invoices")


@invoices.method("list")
async def list_invoices(context: Context) -> list[dict[str, Any]]:
    return [INVOICE] if context["user_id"] == INVOICE["user_id"] else []


async def test_a_user_sees_their_invoices_and_no_others(settings: Settings) -> None:
    settings = settings.model_copy(update={"amqp_url": "memory://"})
    broker = MemoryBroker()
    broker.serve(invoices)
    async with run(settings, create_app(settings, broker=broker)) as bff:
        async with bff.browser("alice", ["invoices"]) as alice:
            assert (await alice.request("invoices", "list"))["result"] == [INVOICE]
        async with bff.browser("bob", ["invoices"]) as bob:
            assert (await bob.request("invoices", "list"))["result"] == []
        async with bff.browser("bob", ["orders"]) as bob:
            answer = await bob.request("invoices", "list")
            assert answer["error"]["code"] == "forbidden"


async def test_a_paid_invoice_reaches_its_user(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"amqp_url": "memory://"}))
    async with run(settings, app) as bff, bff.browser("alice") as alice:
        await app.state.mesh.publish("invoices.2030-1.paid", INVOICE)
        paid = await alice.event("invoice.paid")
        assert paid["event"] == {"number": "2030-1"}
        assert paid["id"].startswith("user/")
