"""Programs of npm that tests use: a `package.json` names them, npm installs them once."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from tests.baked import environment

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / "build" / "node"
OLDEST = 20
_INSTALL_SECONDS = 300
_SECONDS = 120


@cache
def packages(source: Path = HERE) -> Path:
    """The folder with `node_modules` for the `package.json` in `source`. Skips the test where Node
    or the registry is missing."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip(f"needs Node {OLDEST} or later, with npm")
    version = subprocess.run([node, "--version"], check=True, capture_output=True, text=True).stdout
    if int(version.strip().removeprefix("v").partition(".")[0]) < OLDEST:
        pytest.skip(f"needs Node {OLDEST} or later; this is {version}")
    lock = (source / "package-lock.json").read_bytes()
    folder = CACHE / hashlib.sha256(lock).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "installing").open("w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy2(source / name, folder / name)
            done = subprocess.run(
                [npm, "ci", "--ignore-scripts", "--no-fund", "--no-audit"],
                cwd=folder,
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_INSTALL_SECONDS,
            )
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


def run(script: Path, *arguments: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run a script that imports these packages; `given` is its standard input."""
    target = beside_packages(script, packages())
    return subprocess.run(
        ["node", target, *arguments],
        cwd=target.parent,
        env=environment(),
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
    )


def tsc(*files: Path, options: tuple[str, ...] = ()) -> list[str]:
    """Compile TypeScript files strictly; a line for each error, as tsc prints it."""
    program = packages() / "node_modules" / "typescript" / "bin" / "tsc"
    done = subprocess.run(
        ["node", program, "--noEmit", "--strict", "--target", "es2022", "--module", "nodenext",
         "--pretty", "false", *options, *files],
        cwd=files[0].parent,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
    )  # fmt: skip
    return [line for line in done.stdout.splitlines() if line and not line.startswith(" ")]
