"""What only a certified provider shows: its way to end sessions, and of knowing its clients."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bff.connections.close_codes import CloseCode
from bff.testing import RunningBff
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from joserfc.jwk import ECKey, RSAKey

from tests.engine.sign_in.conftest import Certified, Page, Start
from tests.servers.identity_provider import IdentityProviderServer

Pages = Callable[[RunningBff], Page]


@pytest.fixture
def provider(request: pytest.FixtureRequest, real_redis: str) -> Certified:
    server: IdentityProviderServer = request.getfixturevalue("certified")
    return Certified(server)


async def test_back_channel_logout_on_b_closes_the_sockets_of_that_session_on_a(
    start: Start, pages: Pages, provider: Certified
) -> None:
    """In less than a second; the user's other session is alive and untouched."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    at_a, at_b = [f"http://127.0.0.1:{one.getsockname()[1]}" for one in listeners]
    metadata = {
        "redirect_uris": [f"{at_a}/auth/callback"],
        "backchannel_logout_uri": f"{at_b}/auth/backchannel-logout",
    }
    async with (
        start(listener=listeners[0], metadata=metadata) as a,
        start(listener=listeners[1]) as b,
    ):
        laptop, phone = pages(a), pages(a)
        await laptop.sign_in("lena")
        await phone.sign_in("lena")
        async with laptop.socket() as ends, phone.socket() as stays:
            await ends.receive()
            await stays.receive()
            await provider.sign_out(laptop)
            began = time.monotonic()
            assert await ends.closed() == CloseCode.SESSION_ENDED
            assert time.monotonic() - began < 1
            assert (await stays.request("echo", "say", text="hi"))["result"]["text"] == "hi"
        assert await laptop.me() is None
        assert await phone.me() is not None
        laptop.use(b)
        assert await laptop.me() is None


async def test_a_session_that_the_provider_has_ended_before_the_callback_stays_out(
    start: Start, pages: Pages, provider: Certified
) -> None:
    async with start() as bff:
        page = pages(bff)
        await page.sign_in("lars")
        callback = await page.approve(await page.begin(), "lars")
        await provider.sign_out(page)
        assert await page.me() is None
        response = await page.http.get(callback)
        assert response.status_code == 401
        assert await page.me() is None


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
async def test_the_client_authenticates_with_its_secret(
    start: Start, pages: Pages, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start(metadata={"token_endpoint_auth_method": method}) as bff:
        assert bff.engine.sign_ins is not None
        monkeypatch.setattr(bff.engine.sign_ins.provider, "_auth_method", lambda _: method)
        page = pages(bff)
        await page.sign_in()
        assert await page.me() is not None


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
async def test_the_client_authenticates_with_its_key(
    start: Start, pages: Pages, tmp_path: Path, algorithm: str
) -> None:
    private: Any = (
        rsa.generate_private_key(65537, 2048)
        if algorithm == "RS256"
        else ec.generate_private_key(ec.SECP256R1())
    )
    file = tmp_path / "key.pem"
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file.write_bytes(pem)
    kind = RSAKey if algorithm == "RS256" else ECKey
    metadata = {
        "token_endpoint_auth_method": "private_key_jwt",
        "token_endpoint_auth_signing_alg": algorithm,
        "jwks": {"keys": [kind.import_key(pem).as_dict(private=False)]},
    }
    changes = {"oidc_private_key_file": file, "oidc_client_secret": None}
    async with start(metadata=metadata, **changes) as bff:
        page = pages(bff)
        await page.sign_in()
        assert await page.me() is not None
        assert (await page.fetch("POST", "/auth/logout")).status_code == 200
