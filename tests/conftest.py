"""Shared fixtures: the generated project, its environment, and real servers."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.bake import ROOT, bake, bring_up_to_date, export
from tests import servers
from tests.background import BackgroundRuns
from tests.baked import InstalledProject
from tests.file_lock import file_lock

for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL"):
    os.environ.pop(name, None)
"""`make` inside a test is the user's, not a part of the `make test` that runs the tests."""

NUROPB_LOCK = ROOT / "tests" / "requirements-nuropb.lock"
NUROPB_PYTHON = "python3.11"
"""The newest Python that nuropb 0.1.8 runs on, and the one its lock is made for."""


def pytest_configure() -> None:
    """SIGTERM ends a run as Ctrl-C does: fixtures still stop the servers they have started."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean export of the template: nothing that git ignores."""
    return export(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def installed(template: Path) -> InstalledProject:
    """The default project, installed from its lock into a virtual environment that all tests and
    later runs share. Change nothing in its folder."""
    path = ROOT / "build" / "test" / "my-bff"
    project = InstalledProject(path, ROOT / ".venv-project")
    with tempfile.TemporaryDirectory() as folder, file_lock("my-bff"):
        bring_up_to_date(path, bake(template, Path(folder)))
        project.install()
    return project


@pytest.fixture(scope="session")
def background_runs() -> Iterator[BackgroundRuns]:
    runs = BackgroundRuns()
    yield runs
    runs.close()


@pytest.fixture(scope="session", autouse=True)
def _begin_background_runs_early(request: pytest.FixtureRequest) -> None:
    """Before the first test, if any wants them."""
    if any(
        "background_runs" in getattr(item, "fixturenames", ()) for item in request.session.items
    ):
        request.getfixturevalue("background_runs")


@pytest.fixture(scope="session")
def redis_server() -> Iterator[servers.Server]:
    server = servers.redis()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[servers.Server]:
    server = servers.rabbitmq()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[servers.Server]:
    server = servers.postgres()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def nuropb_python() -> Path | None:
    """A Python with nuropb 0.1.8, or None with a warning: then captured messages are used."""
    base = _python_for_nuropb()
    if base is None:
        warnings.warn(
            f"nuropb 0.1.8 needs {NUROPB_PYTHON}, which is not here: no test against a real "
            "nuropb service runs, the captured messages stand in",
            stacklevel=1,
        )
        return None
    venv = ROOT / ".venv-nuropb"
    stamp = venv / ".ready"
    wanted = hashlib.sha256(NUROPB_LOCK.read_bytes()).hexdigest()
    with file_lock("nuropb"):
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(venv, ignore_errors=True)
            subprocess.run([base, "-m", "venv", venv], check=True)
            pip = str(venv / "bin" / "pip")
            lock = str(NUROPB_LOCK)
            subprocess.run([pip, "install", "--quiet", "--require-hashes", "-r", lock], check=True)
            stamp.write_text(wanted)
    return venv / "bin" / "python"


def _python_for_nuropb() -> Path | None:
    here = Path(sys.base_prefix, "bin", NUROPB_PYTHON)
    found = here if here.exists() else shutil.which(NUROPB_PYTHON)
    if found is None or subprocess.run([found, "--version"], capture_output=True).returncode:
        return None
    return Path(found)
