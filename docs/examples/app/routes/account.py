"""The balance of a user, from the billing system."""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import BaseModel

from app.billing import Billing
from app.dependencies import BillingDep
from bff import Caller, RealtimeRouter
from bff.endpoints import CallerDep, responses

router = APIRouter(prefix="/account", tags=["account"], responses=responses(401, 403, 503))
realtime = RealtimeRouter()


class Account(BaseModel):
    cents: int


@router.get("")
async def read_account(caller: CallerDep, billing: BillingDep) -> Account:
    caller.require("invoices")
    return Account(cents=await billing.balance(caller.user_id))


@realtime.method("account.read", scopes=["invoices"])
async def account(caller: Caller, billing: Billing) -> Account:
    return Account(cents=await billing.balance(caller.user_id))
