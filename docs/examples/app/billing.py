"""The billing system: an HTTP API of another team."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import httpx2

from app.settings import Settings
from bff import Bff, Code, Problem


class Billing:
    """A client of the billing API, with one connection pool."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def balance(self, user_id: str) -> int:
        """The amount that a user owes, in cents.

        Raises:
            Problem: `service_unavailable`: billing does not answer.
        """
        try:
            response = await self._http.get(f"/accounts/{quote(user_id, safe='')}")
            response.raise_for_status()
        except httpx2.HTTPError:
            raise Problem(Code.SERVICE_UNAVAILABLE, "Billing does not answer") from None
        cents: int = response.json()["cents"]
        return cents

    async def unreachable(self) -> str:
        """A check for `/health/ready`: the reason of a failure, or an empty string."""
        try:
            await self._http.get("/health")
        except httpx2.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        return ""


@asynccontextmanager
async def open_billing(bff: Bff) -> AsyncIterator[Billing]:
    """Entered when the app starts, exited when it stops."""
    url = bff.provided(Settings).billing_url
    if not url and bff.settings.environment == "production":
        raise RuntimeError("BILLING_URL is empty")
    transport = None if url else httpx2.MockTransport(_stand_in)
    base_url = url or "http://stand-in"
    async with httpx2.AsyncClient(base_url=base_url, transport=transport, timeout=2) as http:
        yield Billing(http)


def _stand_in(request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, json={"cents": 1250})
