"""A certified OpenID provider: oidc-provider of npm, under Node 20 or later."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2

from tests.node import beside_packages, packages
from tests.servers.server import ProcessServer, answers

_FOLDER = Path(__file__).parent


class IdentityProviderServer(ProcessServer):
    """Its `url` is the issuer. Any user may sign in, with any password.

    Users whose name begins with `admin` have the role `admin`.
    """

    def __init__(
        self, clients: Sequence[Mapping[str, Any]] = (), accounts: Mapping[str, Any] | None = None
    ) -> None:
        """With these clients beside those that `register`, and these claims of accounts.

        Skips the test where Node or the registry is missing.
        """
        self._given = json.dumps({"clients": list(clients), "accounts": accounts or {}})
        self._script = beside_packages(_FOLDER / "server.mjs", packages(_FOLDER))
        super().__init__(Path(shutil.which("node") or "node"))
        self.url = f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [str(self.program), str(self._script), str(self.port), self._given]

    def ready(self) -> bool:
        request = b"GET /.well-known/openid-configuration HTTP/1.0\r\n\r\n"
        return answers(self.port, request, b"HTTP/1.1 200")

    def register(self, **metadata: Any) -> dict[str, Any]:
        """A new client (RFC 7591): `client_id`, `client_secret`, …"""
        response = httpx2.post(f"{self.url}/reg", json=metadata)
        assert response.status_code == 201, response.text
        client: dict[str, Any] = response.json()
        return client

    def grants(self, account: str) -> list[str]:
        """The types of the grants that the token endpoint has given to an account."""
        response = httpx2.get(f"{self.url}/test/grants", params={"account": account})
        found: list[str] = response.json()
        return found

    def token_requests(self, *, delay_ms: int) -> int:
        """How many requests the token endpoint has got; each takes so long from now on."""
        response = httpx2.get(f"{self.url}/test/requests", params={"delay": delay_ms})
        return int(response.text)
