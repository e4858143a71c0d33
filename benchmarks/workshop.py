"""What the candidates need to run: the baked project, virtual environments, Node packages."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from functools import cached_property
from pathlib import Path

from benchmarks.processes import BenchError
from scripts.bake import ROOT, bake, bring_up_to_date, export

HERE = ROOT / "benchmarks"
CANDIDATES = HERE / "candidates"
BUILD = ROOT / "build" / "bench"
"""All that the bench makes; `make clean` removes it."""

_INSTALL_SECONDS = 600
_GATEWAY_PYTHON = "python3.11"


class Workshop:
    """Makes what is missing, once. What cannot be made is a `BenchError` that says why."""

    @cached_property
    def project(self) -> Path:
        """The template baked with its defaults, and one feature added as a user would: a file in
        `routes/`, and its lines in `routes/__init__.py`."""
        with tempfile.TemporaryDirectory() as folder:
            fresh = bake(export(Path(folder, "template")), Path(folder, "baked"))
            routes = fresh / "app" / "routes"
            shutil.copy(CANDIDATES / "ours.py", routes / "bench.py")
            lists = routes / "__init__.py"
            text = lists.read_text()
            for old, new in (
                ("import admin, health,", "import admin, bench, health,"),
                ("    orders.router,\n", "    orders.router,\n    bench.router,\n"),
                ("    orders.realtime,\n", "    orders.realtime,\n    bench.realtime,\n"),
            ):
                if text.count(old) != 1:
                    raise BenchError(f"routes/__init__.py has changed: {old!r}")
                text = text.replace(old, new)
            lists.write_text(text)
            project = BUILD / fresh.name
            bring_up_to_date(project, fresh)
        return project

    @cached_property
    def project_python(self) -> Path:
        """With the project's locked dependencies, and nothing else."""
        return _venv("project", sys.executable, self.project / "requirements.lock")

    @cached_property
    def peers_python(self) -> Path:
        return _venv("peers", sys.executable, HERE / "peers.lock")

    @cached_property
    def gateway_python(self) -> Path:
        here = Path(sys.base_prefix, "bin", _GATEWAY_PYTHON)
        base = here if here.exists() else shutil.which(_GATEWAY_PYTHON)
        if base is None:
            raise BenchError(f"nuropb 0.1.8 needs {_GATEWAY_PYTHON}, which is not here")
        return _venv("gateway", base, HERE / "gateway.lock")

    @cached_property
    def node(self) -> Path:
        """A folder with the Node candidates and their packages."""
        if shutil.which("node") is None or shutil.which("npm") is None:
            raise BenchError("node and npm are not here")
        folder = BUILD / "node"
        folder.mkdir(parents=True, exist_ok=True)
        for path in (*CANDIDATES.glob("*.mjs"), *CANDIDATES.glob("package*.json")):
            shutil.copy(path, folder)
        if _is_new(folder, folder / "package-lock.json"):
            _run("npm", "ci", "--silent", "--no-audit", "--no-fund", cwd=folder)
            _remember(folder, folder / "package-lock.json")
        return folder


def _venv(name: str, base: str | Path, lock: Path) -> Path:
    folder = BUILD / f"venv-{name}"
    python = folder / "bin" / "python"
    if _is_new(folder, lock):
        print(f"Installing {lock.name} into {folder.relative_to(ROOT)} ...", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        _run(base, "-m", "venv", folder)
        pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        _run(*pip, "--no-deps", "--require-hashes", "-r", lock)
        _remember(folder, lock)
    return python


def _is_new(folder: Path, lock: Path) -> bool:
    stamp = folder / ".installed"
    return not stamp.exists() or stamp.read_text() != _digest(lock)


def _remember(folder: Path, lock: Path) -> None:
    (folder / ".installed").write_text(_digest(lock))


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()


def _run(*command: str | Path, cwd: Path = ROOT) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_INSTALL_SECONDS,
    )
    if done.returncode:
        raise BenchError(f"{command[0]} failed:\n{done.stdout[-2000:]}")
