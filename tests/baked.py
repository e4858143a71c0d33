"""A generated project as tests see it: its files, and commands run in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from scripts.bake import KEPT

COMMAND_SECONDS = 600
NOT_HANDED_ON = re.compile(r"VIRTUAL_ENV|PYTHONPATH|PYTEST_.*|MAKE.*|MFLAGS|TEST_.*|JWT_SECRET")
"""Variables of this run that would reach into a project's own commands."""

Dependencies = Literal["app", "engine", "both"]


@dataclass(frozen=True)
class BakedProject:
    path: Path

    def files(self) -> set[str]:
        """Every file, relative to the project."""
        return {
            path.relative_to(self.path).as_posix()
            for path in self.path.rglob("*")
            if path.is_file()
        }

    def read(self, name: str) -> str:
        return (self.path / name).read_text(encoding="utf-8")

    def dependencies(self, *, of: Dependencies = "both") -> list[str]:
        """What the app, the engine or both need where they run, as requirements."""
        engine = self.read("bff/requirements.in").splitlines()
        return [
            *(self._metadata()["dependencies"] if of != "engine" else ()),
            *(line for line in engine if line and not line.startswith("#") and of != "app"),
        ]

    def development_dependencies(self) -> list[str]:
        """What its tools and tests need beside."""
        dev: list[str] = self._metadata()["optional-dependencies"]["dev"]
        return dev

    def _metadata(self) -> dict[str, Any]:
        metadata: dict[str, Any] = tomllib.loads(self.read("pyproject.toml"))["project"]
        return metadata

    def run(self, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the project, with these variables beside the environment."""
        return subprocess.run(
            [str(part) for part in command],
            cwd=self.path,
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_SECONDS,
        )


@dataclass(frozen=True)
class InstalledProject(BakedProject):
    """A project with a virtual environment made from its lock, and `bff` in it."""

    venv: Path

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def bff(self) -> Path:
        return self.venv / "bin" / "bff"

    def copy(self, into: Path) -> InstalledProject:
        """A copy that a test may change, with the same virtual environment."""
        shutil.copytree(self.path, into, ignore=shutil.ignore_patterns(*KEPT))
        return replace(self, path=into)

    def install(self) -> None:
        base = Path(sys.base_prefix, "bin", "python3")
        done = self.run("make", "install", f"VENV={self.venv}", f"PYTHON={base}")
        assert done.returncode == 0, done.stdout

    def run_tests(self, *parts: str, **variables: str) -> list[str]:
        """Run the project's own tests, or a part of them, which must pass; return what they skip,
        a line each."""
        done = self.run(self.python, "-m", "pytest", "-ra", "--tb=short", *parts, **variables)
        assert done.returncode == 0, done.stdout
        assert " passed" in done.stdout
        return [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without what belongs to this test run, and with `variables`."""
    kept = {name: value for name, value in os.environ.items() if not NOT_HANDED_ON.fullmatch(name)}
    return kept | variables
