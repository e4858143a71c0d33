"""Payment of an invoice, which requires an open account."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends
from pydantic import BaseModel

from bff import Code, MeshClient, Problem, RealtimeRouter

realtime = RealtimeRouter()


class Account(BaseModel):
    number: str
    closed: bool


async def open_account(mesh: MeshClient) -> Account:
    """The caller's account, from the service `accounts`.

    Raises:
        Problem: `conflict` when it is closed.
    """
    account = Account.model_validate(await mesh.request("accounts", "own", {}))
    if account.closed:
        raise Problem(Code.CONFLICT, "The account is closed")
    return account


OpenAccount = Annotated[Account, Depends(open_account)]


class Pay(BaseModel):
    invoice: str


@realtime.method("payments.pay", scopes=["invoices"])
async def pay(params: Pay, account: OpenAccount, mesh: MeshClient) -> Any:
    payment = {"number": params.invoice, "account": account.number}
    return await mesh.request("invoices", "pay", payment)
