"""`/ws`: the tenant of a handshake, and the request id of its response."""

from __future__ import annotations

import pytest
from websockets import InvalidStatus

from app.main import create_app
from app.settings import Settings
from bff.testing import run


@pytest.mark.parametrize("ws", [None, "websockets-sansio"], ids=["bff serve", "uvicorn"])
async def test_only_the_right_tenant_may_connect(settings: Settings, ws: str | None) -> None:
    north = settings.model_copy(update={"tenant": "north"})
    async with run(create_app(north), ws=ws) as bff:
        signed_in = {"Authorization": f"Bearer {bff.token('alice')}"}
        async with bff.handshake(headers={**signed_in, "X-Tenant": "north"}) as alice:
            assert (await alice.receive())["payload"]["topic"] == "hello"
            response = alice.websocket.response
            assert response is not None
            assert response.headers["X-Request-Id"]
        for headers in (signed_in, {**signed_in, "X-Tenant": "south"}):
            with pytest.raises(InvalidStatus, match="403"):
                async with bff.handshake(headers=headers):
                    pass
