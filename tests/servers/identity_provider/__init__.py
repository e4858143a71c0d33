"""A certified OpenID provider: oidc-provider of npm, under Node 20 or later."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx2

from scripts.bake import ROOT
from tests.servers.server import ProcessServer, ServerError, answers

_FOLDER = Path(__file__).parent
_FILES = ("package.json", "package-lock.json", "server.mjs")
_INSTALL_SECONDS = 300


class IdentityProviderServer(ProcessServer):
    """Its `url` is the issuer. Any user may sign in, with any password.

    Users whose name begins with `admin` have the role `admin`.
    """

    def __init__(self) -> None:
        """
        Raises:
            ServerError: there is no Node, or npm cannot install the provider.
        """
        program = shutil.which("node")
        if program is None:
            raise ServerError("there is no Node")
        self._installed = _install()
        super().__init__(Path(program))
        self.url = f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [str(self.program), str(self._installed / "server.mjs"), str(self.port)]

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


def _install() -> Path:
    """The folder in which the locked version is installed, once for all runs."""
    npm = shutil.which("npm")
    if npm is None:
        raise ServerError("there is no npm")
    digest = hashlib.sha256(b"".join((_FOLDER / name).read_bytes() for name in _FILES))
    folder = ROOT / "build" / f"identity-provider-{digest.hexdigest()[:12]}"
    if (folder / "installed").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in _FILES:
        shutil.copy(_FOLDER / name, folder)
    command = [npm, "ci", "--no-fund", "--no-audit", "--ignore-scripts"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=_INSTALL_SECONDS
    )
    if done.returncode:
        raise ServerError(f"npm cannot install the provider: {done.stderr[-500:]}")
    (folder / "installed").touch()
    return folder
