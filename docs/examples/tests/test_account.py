"""The balance of a user, over HTTP and over a socket; and billing when it is unavailable."""

from __future__ import annotations

from app.main import create_app
from app.settings import Settings
from bff.testing import RunningBff, run


async def test_a_user_reads_their_balance(bff: RunningBff) -> None:
    async with bff.http("alice", ["invoices"]) as alice:
        assert (await alice.get("/account")).json() == {"cents": 1250}
    async with bff.browser("alice", ["invoices"]) as alices:
        assert (await alices.request("account", "read"))["result"] == {"cents": 1250}


async def test_readiness_fails_while_billing_is_unavailable(settings: Settings) -> None:
    away = settings.model_copy(update={"billing_url": "http://127.0.0.1:1"})
    async with run(create_app(away)) as bff, bff.http("alice", ["invoices"]) as alice:
        ready = await alice.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["checks"]["billing"]["reason"].startswith("ConnectError")
        assert (await alice.get("/account")).json()["code"] == "service_unavailable"
