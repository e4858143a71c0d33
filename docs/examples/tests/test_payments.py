"""Payments: only from an open account."""

from __future__ import annotations

from typing import Any

import pytest

from bff import Context, Service
from bff.testing import RunningBff

invoices = Service("invoices")


@invoices.method("pay")
async def pay(number: str, account: str) -> dict[str, Any]:
    return {"number": number, "paid_from": account}


def accounts(*, closed: bool) -> Service:
    service = Service("accounts")

    @service.method("own")
    async def own(context: Context) -> dict[str, Any]:
        return {"number": f"account of {context['user_id']}", "closed": closed}

    return service


@pytest.mark.parametrize("closed", [False, True])
async def test_only_an_open_account_can_pay(bff: RunningBff, closed: bool) -> None:
    async with (
        bff.mesh_service(invoices),
        bff.mesh_service(accounts(closed=closed)),
        bff.browser("alice", ["invoices"]) as alice,
    ):
        answer = await alice.request("payments", "pay", invoice="2030-1")
    if closed:
        assert answer["error"]["code"] == "conflict"
    else:
        assert answer["result"] == {"number": "2030-1", "paid_from": "account of alice"}
