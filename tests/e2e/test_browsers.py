"""The example app of `docs/examples/web`, built as a user builds it, in real browsers."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests import node

HERE = Path(__file__).parent
PROJECT = HERE.parents[1] / "{{cookiecutter.project_slug}}"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FIREFOX = ("firefox-esr", "firefox")
SECONDS = 420
MAX_TABS = 3


def _program(*arguments: str | Path, cwd: Path) -> None:
    done = subprocess.run(
        ["node", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout


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
    _program("node_modules/typescript/bin/tsc", cwd=app)
    _program("node_modules/vite/bin/vite.js", "build", cwd=app)
    (app / "dist" / "empty.html").write_text("<!doctype html><title>Another page</title>")
    return app


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _run(app: Path, browser: str, tmp_path: Path, *, long: bool) -> None:
    for script in (HERE / "web").iterdir():
        shutil.copy2(script, app / script.name)
    front = _free_port()
    origins = ",".join(f"http://{host}:{front}" for host in ("localhost", "127.0.0.1"))
    done = subprocess.run(
        ["node", "--test", "--test-reporter=spec", app / "browsers.test.mjs"],
        env=os.environ
        | {
            "APP": str(app / "dist"),
            "BROWSER": browser,
            "BFF_COMMAND": json.dumps([sys.executable, "-m", "bff.cli", "serve"]),
            "BFF_PORT": str(_free_port()),
            "FRONT_PORT": str(front),
            "LONG": "1" if long else "",
            "PYTHONPATH": str(PROJECT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "ENVIRONMENT": "development",
            "REDIS_URL": "memory://",
            "AMQP_URL": "memory://",
            "DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/web.sqlite3",
            "JWT_SECRET": secrets.token_hex(32),
            "ALLOWED_ORIGINS": origins,
            "MAX_CONNECTIONS_PER_USER": str(MAX_TABS),
            "MAX_TABS": str(MAX_TABS),
        },
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout


def _browser(names: tuple[str, ...]) -> str:
    path = next((path for name in names if (path := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"needs a browser: {' or '.join(names)}")
    return path


@pytest.mark.long
def test_the_example_app_in_chromium(built: Path, tmp_path: Path) -> None:
    _run(built, _browser(CHROMIUM), tmp_path, long=False)


@pytest.mark.long
@pytest.mark.parametrize("names", [CHROMIUM, FIREFOX], ids=["chromium", "firefox"])
def test_the_example_app_for_minutes(built: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    _run(built, _browser(names), tmp_path, long=True)
