"""Node, and programs of npm: `package.json` names those that tests use; npm installs them once."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.baked import environment
from tests.file_lock import file_lock

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / "build" / "node"
OLDEST = 20
_WITH_WEBSOCKET = 22
_INSTALL_SECONDS = 300
_SECONDS = 120


@cache
def _version() -> int:
    """The major version of Node; 0 if there is none."""
    path = shutil.which("node")
    if path is None:
        return 0
    done = subprocess.run(
        [path, "--version"], check=True, capture_output=True, text=True, timeout=_SECONDS
    )
    return int(done.stdout.strip().removeprefix("v").partition(".")[0])


def websocket_command() -> list[str] | None:
    """The command that runs a script with a WebSocket; None if there is no Node or an older one."""
    if _version() < OLDEST:
        return None
    return ["node"] if _version() >= _WITH_WEBSOCKET else ["node", "--experimental-websocket"]


def needed_websocket_command() -> list[str]:
    """The same. Skips the test where it is missing."""
    command = websocket_command()
    if command is None:
        pytest.skip(f"needs Node {OLDEST} or later")
    return command


@cache
def packages(source: Path = HERE) -> Path:
    """The folder with `node_modules` for the `package.json` in `source`. Skips the test where Node
    or the registry is missing."""
    npm = shutil.which("npm")
    if npm is None or _version() < OLDEST:
        pytest.skip(f"needs Node {OLDEST} or later, with npm")
    lock = (source / "package-lock.json").read_bytes()
    folder = CACHE / hashlib.sha256(lock).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock(folder.name):
        if not (folder / "installed").exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy2(source / name, folder / name)
            install = [npm, "ci", "--ignore-scripts", "--no-fund", "--no-audit"]
            done = execute(install, cwd=folder, seconds=_INSTALL_SECONDS)
            if done.returncode:
                pytest.skip(f"npm cannot install {source}/package.json: {done.stdout[-300:]}")
            (folder / "installed").touch()
    return folder


def beside_packages(script: Path, folder: Path) -> Path:
    """A copy of a script in the folder with the packages that it imports."""
    target = folder / script.name
    if not target.exists() or target.read_bytes() != script.read_bytes():
        shutil.copy2(script, target)
    return target


def execute(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    given: str = "",
    seconds: float = _SECONDS,
    variables: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command with `given` as its standard input; its errors are among its output."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment(**(variables or {})),
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
    )


def output_of(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    seconds: float = _SECONDS,
    variables: Mapping[str, str] | None = None,
) -> str:
    """The output of a command that must succeed."""
    done = execute(command, cwd=cwd, seconds=seconds, variables=variables)
    assert done.returncode == 0, done.stdout
    return done.stdout


def run(script: Path, *arguments: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script that imports these packages; `given` is its standard input."""
    target = beside_packages(script, packages())
    return execute(["node", target, *arguments], cwd=target.parent, given=given)


def tsc(*files: Path, options: tuple[str, ...] = ()) -> list[str]:
    """Compile TypeScript files strictly; a line for each error, as tsc prints it."""
    program = packages() / "node_modules" / "typescript" / "bin" / "tsc"
    flags = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext"]
    flags += ["--pretty", "false", *options]
    done = execute(["node", program, *flags, *files], cwd=files[0].parent)
    return [line for line in done.stdout.splitlines() if line and not line.startswith(" ")]
