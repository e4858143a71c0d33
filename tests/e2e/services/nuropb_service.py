"""A mesh service on the real nuropb 0.1.8, run in a Python of its own: `… <amqp url>`.

Without `from __future__ import annotations`: nuropb cannot describe methods whose annotations are
texts.
"""

import asyncio
import datetime
import sys
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa
from nuropb.contexts.context_manager_decorator import nuropb_context
from nuropb.contexts.describe import publish_to_mesh
from nuropb.interface import NuropbAuthorizationError, NuropbSuccess
from nuropb.rmq_api import RMQAPI
from nuropb.rmq_lib import configure_nuropb_rmq

NAMES = {
    "rpc_exchange": "nuropb-rpc-exchange",
    "events_exchange": "nuropb-events-exchange",
    "dl_exchange": "nuropb-dl-exchange",
    "dl_queue": "nuropb-dl-queue",
}


def claims_of(token: str) -> dict[str, Any]:
    return {"token": token}


class Demo:
    """What browsers may call through the BFF."""

    _service_name = "demo"
    _version = "1.0.0"

    def __init__(self) -> None:
        self._api: RMQAPI | None = None
        self._notes: list[str] = []
        self._private_key = rsa.generate_private_key(65537, 2048)

    def echo(self, **values: Any) -> dict[str, Any]:
        return values

    def add(self, a: int, b: int) -> int:
        return a + b

    async def slow(self, seconds: float, value: Any = None) -> Any:
        await asyncio.sleep(seconds)
        return value

    async def report(self, seconds: float) -> dict[str, float]:
        await asyncio.sleep(seconds)
        return {"took": seconds}

    def fail(self) -> None:
        raise RuntimeError("password of db-17 is hunter2")

    async def fail_later(self) -> None:
        await asyncio.sleep(0)
        raise LookupError("password of db-17 is hunter2")

    def refuse(self) -> None:
        raise NuropbAuthorizationError("Only the owner may do this")

    @nuropb_context  # type: ignore[untyped-decorator]
    def context(self, ctx: Any) -> Any:
        return ctx.context

    @nuropb_context  # type: ignore[untyped-decorator]
    @publish_to_mesh(authorize_func=claims_of)  # type: ignore[untyped-decorator]
    def claims(self, ctx: Any) -> Any:
        return ctx.user_claims

    @publish_to_mesh(requires_encryption=True)  # type: ignore[untyped-decorator]
    def secret(self, code: str) -> dict[str, str]:
        return {"opened_with": code}

    @publish_to_mesh(requires_encryption=True)  # type: ignore[untyped-decorator]
    def secret_refused(self) -> None:
        raise NuropbAuthorizationError("Only the owner may do this")

    def tell(self, user_id: str, text: str) -> str:
        """Publish an event for a user."""
        assert self._api is not None
        self._api.publish_event(
            topic="demo.7.happened", event={"user_id": user_id, "text": text}, context={}
        )
        return "told"

    def finish(self, user_id: str, text: str) -> None:
        """Answer and publish in one go, as NuropbSuccess does it: with two replies."""
        event = {"user_id": user_id, "text": text}
        raise NuropbSuccess(
            result="finished",
            events=[{"topic": "demo.8.happened", "payload": event, "target": [user_id]}],
        )

    def note(self, text: str) -> None:
        self._notes.append(text)

    def noted(self) -> list[str]:
        return self._notes

    def odd(self) -> dict[str, Any]:
        """What Python's JSON writes and JSON has not."""
        return {"nan": float("nan"), "at": datetime.date(2030, 1, 2)}


async def main(amqp_url: str) -> None:
    configure_nuropb_rmq(rmq_url=amqp_url, **NAMES)
    service = Demo()
    service._api = RMQAPI(
        amqp_url=amqp_url,
        service_name=service._service_name,
        service_instance=service,
        transport_settings={**NAMES, "prefetch_count": 0},
    )
    await service._api.connect()
    assert service._api.connected, "not connected to the mesh"
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
