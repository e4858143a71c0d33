"""A BFF as somebody runs it: one project, one set of settings, any number of instances."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import httpx2
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jose import jwt
from sqlalchemy.ext.asyncio import create_async_engine

from tests.baked import InstalledProject
from tests.e2e.processes import Instance
from tests.e2e.waiting import until_true
from tests.servers import Server

ORIGIN = "http://localhost:8000"
ISSUER = "https://issuer.example"
AUDIENCE = "bff-browsers"
_SERVICES = Path(__file__).with_name("services")


class Deployment:
    """Settings are environment variables; there is no `.env`."""

    def __init__(self, project: InstalledProject, folder: Path, **settings: str) -> None:
        self.project = project
        self.folder = folder
        self.secret = secrets.token_hex(32)
        self.mesh_secret = secrets.token_hex(32)
        self.app_name = f"e2e-{secrets.token_hex(4)}"
        key = folder / "mesh.pem"
        key.write_bytes(_new_key())
        self.settings = {
            "MESH_PRIVATE_KEY_FILE": str(key),
            "PYTHONPATH": str(project.path),
            "APP_NAME": self.app_name,
            "ENVIRONMENT": "production",
            "DATABASE_URL": f"sqlite+aiosqlite:///{folder}/bff.sqlite3",
            "JWT_SECRET": self.secret,
            "MESH_TOKEN_SECRET": self.mesh_secret,
            "JWT_ISSUER": ISSUER,
            "JWT_AUDIENCE": AUDIENCE,
            "ALLOWED_ORIGINS": ORIGIN,
            "LEASE_SECONDS": "10",
            "LEASE_RENEWAL_SECONDS": "1",
            "PUBSUB_PROBE_SECONDS": "1",
            "DRAIN_SECONDS": "10",
            "TOKEN_GRACE_SECONDS": "1",
        } | settings
        self.instances: list[Instance] = []
        self.canaries: list[str] = []
        """Tokens, tickets and cookies that were in use: no log may hold one."""

    def bff(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run `bff` to its end."""
        return self.project.run(self.project.bff, *arguments, **self.settings | settings)

    def serve(self, name: str, *arguments: str, **settings: str) -> Instance:
        """Start `bff serve`, without waiting for it."""
        return self.start(name, [self.project.bff, "serve", "--port", "0", *arguments], **settings)

    def start(self, name: str, command: Sequence[str | Path], **settings: str) -> Instance:
        """Start any command that serves, without waiting for it."""
        instance = Instance(
            name,
            command,
            cwd=self.project.path,
            logs=self.folder,
            variables=self.settings | settings,
        )
        self.instances.append(instance)
        return instance

    def token(self, user: str, *scopes: str, lifetime: float = 600, **claims: Any) -> str:
        """A token as an identity provider with the same secret would make it."""
        now = int(time.time())
        standard = {
            "sub": user,
            "iat": now,
            "exp": int(now + lifetime),
            "iss": ISSUER,
            "aud": AUDIENCE,
            "scope": " ".join(scopes),
            "username": user.partition("-")[0],
        }
        token = jwt.encode(standard | claims, self.secret, algorithm="HS256")
        self.canaries.append(token)
        return token

    def close(self) -> None:
        """End every instance; what they wrote must hold no secret."""
        for instance in self.instances:
            instance.close()
        self.assert_logs_are_clean()

    def assert_logs_are_clean(self) -> None:
        """No instance has logged a token, ticket, cookie, or the secret."""
        for instance in self.instances:
            output = instance.output
            for canary in {*self.canaries, self.secret, self.mesh_secret}:
                assert canary not in output, f"{instance.name} has logged {canary}"


@cache
def _new_key() -> bytes:
    return rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


@dataclass(frozen=True)
class Cluster:
    """Two instances of one deployment."""

    deployment: Deployment
    a: Instance
    b: Instance

    def whole(self) -> Cluster:
        """The same, with whoever has exited started anew, once both are ready and know of each
        other."""
        a, b = (
            instance if instance.exit_code is None else self.deployment.serve(instance.name)
            for instance in (self.a, self.b)
        )
        for instance in (a, b):
            instance.until_ready()
        for instance in (a, b):
            until_true(
                partial(knows_both, self.deployment, instance), f"{instance.name} knows both"
            )
        return Cluster(self.deployment, a, b)


def start_cluster(deployment: Deployment) -> Cluster:
    """Migrate, start A and B, and wait until both are ready and know of each other."""
    migrated = deployment.bff("migrate")
    assert migrated.returncode == 0, migrated.stdout
    return Cluster(deployment, deployment.serve("A"), deployment.serve("B")).whole()


async def new_database(server: Server) -> str:
    """The URL of an empty database, which no other test uses."""
    name = f"e2e_{secrets.token_hex(4)}"
    engine = create_async_engine(server.url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.exec_driver_sql(f"CREATE DATABASE {name}")
    await engine.dispose()
    return f"{server.url.rpartition('/')[0]}/{name}"


def knows_both(deployment: Deployment, instance: Instance) -> bool:
    headers = {"Authorization": f"Bearer {deployment.token('starter', 'admin')}"}
    stats = httpx2.get(f"{instance.url}/admin/stats", headers=headers).json()
    return len(stats["instances"]) == 2


def customised(installed: InstalledProject, path: Path) -> InstalledProject:
    """A copy of the project with one more feature, added as `app/routes/__init__.py` says: a
    new file, and a line in each list of `routes/__init__.py`."""
    project = installed.copy(path)
    routes = path / "app" / "routes"
    shutil.copy(_SERVICES / "demo_routes.py.txt", routes / "demo.py")
    lists = routes / "__init__.py"
    text = lists.read_text()
    for old, new in (
        ("import admin, health,", "import admin, demo, health,"),
        ("    orders.router,\n", "    orders.router,\n    demo.router,\n"),
        ("    orders.realtime,\n", "    orders.realtime,\n    demo.realtime,\n"),
    ):
        assert text.count(old) == 1, f"routes/__init__.py has changed: {old!r}"
        text = text.replace(old, new)
    lists.write_text(text)
    return project
