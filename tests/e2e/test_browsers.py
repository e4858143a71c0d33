"""The example app of `docs/examples/web`, built as a user builds it, in real browsers."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import browsers, node
from tests.servers.server import free_port

HERE = Path(__file__).parent
PROJECT = HERE.parents[1] / "{{cookiecutter.project_slug}}"
SECONDS = 420
MAX_TABS = 3
KEPT = 10
"""Messages that a stream keeps."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example app with the packages that it names, and the client linked into it."""
    folder = tmp_path_factory.mktemp("web")
    shutil.copytree(PROJECT / "docs" / "examples" / "web", folder, dirs_exist_ok=True)
    modules = folder / "node_modules"
    modules.mkdir()
    for package in (node.packages() / "node_modules").iterdir():
        (modules / package.name).symlink_to(package)
    shutil.copytree(PROJECT / "client", modules / "bff-client")
    return folder


@pytest.fixture(scope="module")
def built(app: Path) -> Path:
    node.output_of(["node", "node_modules/typescript/bin/tsc"], cwd=app)
    node.output_of(["node", "node_modules/vite/bin/vite.js", "build"], cwd=app)
    (app / "dist" / "empty.html").write_text("<!doctype html><title>Another page</title>")
    return app


@pytest.mark.parametrize("browser", [browsers.chromium, browsers.firefox])
@pytest.mark.parametrize("tests", ["browsers", pytest.param("put-aside", marks=pytest.mark.long)])
def test_the_example_app(
    built: Path, tmp_path: Path, tests: str, browser: Callable[[], str]
) -> None:
    path = browser()
    for script in (HERE / "web").iterdir():
        shutil.copy2(script, built / script.name)
    front = free_port()
    report = node.output_of(
        ["node", "--test", "--test-reporter=spec", built / f"{tests}.test.mjs"],
        cwd=tmp_path,
        seconds=SECONDS,
        variables={
            "APP": str(built / "dist"),
            "BROWSER": path,
            "BFF_COMMAND": json.dumps([sys.executable, "-m", "bff.cli", "serve"]),
            "BFF_PORT": str(free_port()),
            "FRONT_PORT": str(front),
            "PYTHONPATH": str(PROJECT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "ENVIRONMENT": "development",
            "REDIS_URL": "memory://",
            "AMQP_URL": "memory://",
            "DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/web.sqlite3",
            "JWT_SECRET": secrets.token_hex(32),
            "ALLOWED_ORIGINS": ",".join(
                f"http://{host}:{front}" for host in ("localhost", "127.0.0.1")
            ),
            "MAX_CONNECTIONS_PER_USER": str(MAX_TABS),
            "MAX_TABS": str(MAX_TABS),
            "MAX_STREAM_LENGTH": str(KEPT),
            "KEPT": str(KEPT),
        },
    )
    print(report)
