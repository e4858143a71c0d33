"""Runs a script of `tests/e2e/web` under Node, beside its packages, with a BFF that it starts."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from tests import node
from tests.servers.server import free_port

HERE = Path(__file__).parent
PROJECT = HERE.parents[1] / "{{cookiecutter.project_slug}}"
SECONDS = 420
MAX_TABS = 3
KEPT = 10
"""Messages that a stream keeps."""


def link_packages(folder: Path) -> None:
    """Make a `node_modules` with the packages that tests use, and the client."""
    modules = folder / "node_modules"
    modules.mkdir()
    for package in (node.packages() / "node_modules").iterdir():
        (modules / package.name).symlink_to(package)
    shutil.copytree(PROJECT / "client", modules / "bff-client")


def run_tests(
    name: str,
    folder: Path,
    database: Path,
    *,
    command: Iterable[str] = ("node",),
    variables: Mapping[str, str],
) -> None:
    """Run `<name>.test.mjs`, copied into `folder`, where its packages are."""
    for script in (HERE / "web").iterdir():
        shutil.copy2(script, folder / script.name)
    front, bff = free_port(), free_port()
    report = node.output_of(
        [*command, "--test", "--test-reporter=spec", folder / f"{name}.test.mjs"],
        cwd=database.parent,
        seconds=SECONDS,
        variables={
            "BFF_COMMAND": json.dumps([sys.executable, "-m", "bff.cli", "serve"]),
            "BFF_PORT": str(bff),
            "FRONT_PORT": str(front),
            "PYTHONPATH": str(PROJECT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "ENVIRONMENT": "development",
            "REDIS_URL": "memory://",
            "AMQP_URL": "memory://",
            "DATABASE_URL": f"sqlite+aiosqlite:///{database}",
            "JWT_SECRET": secrets.token_hex(32),
            "ALLOWED_ORIGINS": ",".join(
                f"http://{host}:{port}"
                for host in ("localhost", "127.0.0.1")
                for port in (front, bff)
            ),
            "MAX_CONNECTIONS_PER_USER": str(MAX_TABS),
            "MAX_TABS": str(MAX_TABS),
            "MAX_STREAM_LENGTH": str(KEPT),
            "KEPT": str(KEPT),
            **variables,
        },
    )
    print(report)
