"""Paying: only from an open account."""

from __future__ import annotations

from typing import Any

import pytest

from app.main import create_app
from app.mesh.memory import MemoryBroker
from app.mesh.service import Context, Service
from app.settings import Settings
from tests.running import run

invoices = Service("invoices")


@invoices.method("pay")
async def pay(number: str, account: str) -> dict[str, Any]:
    return {"number": number, "paid_from": account}


@pytest.mark.parametrize("closed", [False, True])
async def test_a_closed_account_pays_nothing(settings: Settings, closed: bool) -> None:
    accounts = Service("accounts")

    @accounts.method("own")
    async def own(context: Context) -> dict[str, Any]:
        return {"number": f"account of {context['user_id']}", "closed": closed}

    settings = settings.model_copy(update={"amqp_url": "memory://"})
    broker = MemoryBroker()
    broker.serve(accounts)
    broker.serve(invoices)
    async with (
        run(settings, create_app(settings, broker=broker)) as bff,
        bff.browser("alice", ["invoices"]) as alice,
    ):
        answer = await alice.request("payments", "pay", invoice="2030-1")
    if closed:
        assert answer["error"]["code"] == "conflict"
    else:
        assert answer["result"] == {"number": "2030-1", "paid_from": "account of alice"}
