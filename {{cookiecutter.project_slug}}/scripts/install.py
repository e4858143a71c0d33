"""Install the locked packages and the project into a virtual environment.

With uv if it is installed; with pip if it is not, if it fails, or if the variable `UV` is empty.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

OLDEST = (3, 11)
BIN, SUFFIX = ("Scripts", ".exe") if os.name == "nt" else ("bin", "")
PROJECT = ["-r", "requirements-dev.lock", "-e", "."]


def lack(uv: str) -> str | None:
    """What this Python lacks, in a sentence; None if it lacks nothing."""
    if sys.version_info < OLDEST:
        version = ".".join(map(str, sys.version_info[:2]))
        return f"Python 3.11 or later is needed, this is {version}; try: make PYTHON=python3.13"
    if not uv and find_spec("ensurepip") is None:
        return "Python has no ensurepip, which venv needs; on Debian: apt install python3-venv"
    return None


def install(venv: Path, locks: list[str], project: str | None, uv: str = "") -> None:
    """Install with this uv, or with pip.

    Raises:
        subprocess.CalledProcessError: uv or pip failed; it has said why.
    """
    python = str(venv / BIN / f"python{SUFFIX}")
    if uv:
        create = [uv, "venv", "--quiet", "--seed", "--allow-existing", "--python", sys.executable]
        add = [uv, "pip", "install", "--quiet", "--no-deps", "--python", python]
    else:
        create = [sys.executable, "-m", "venv"]
        # Without --no-compile pip compiles every module; Python compiles the few that it imports.
        # The second --quiet hides warnings, most of which are about pip's configuration.
        add = [python, "-m", "pip", "install", "--quiet", "--quiet", "--no-deps", "--no-compile"]
        add += ["--disable-pip-version-check"]
    if not (venv / BIN / f"pip{SUFFIX}").exists():  # what venv creates last
        run(*create, str(venv))
    run(*add, "--require-hashes", *(part for lock in locks for part in ("--requirement", lock)))
    if project:
        run(*add, "--no-build-isolation", "--editable", project)


def run(*command: str) -> None:
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True)  # noqa: S603


def main(arguments: list[str]) -> str | int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--venv", type=Path, default=Path(".venv"), help="default: .venv")
    parser.add_argument("-e", "--editable", metavar="PROJECT", help="its folder")
    parser.add_argument("-r", "--requirement", metavar="LOCK", action="append", required=True)
    given = parser.parse_args(arguments or PROJECT)
    uv = os.environ.get("UV", shutil.which("uv") or "")
    sentence = lack(uv)
    if sentence:
        return sentence
    failed: str | int = 0
    for tool in [uv, ""] if uv else [""]:
        print(f"Installing into {given.venv} with {'uv' if tool else 'pip'} ...", flush=True)
        try:
            install(given.venv, given.requirement, given.editable, tool)
        except (OSError, subprocess.CalledProcessError) as error:
            failed = str(error) if isinstance(error, OSError) else 1
        else:
            return 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
