"""Runs the tests against a sample of mutants."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.bake import PROJECT, ROOT
from tests.mutation.mutants import Mutant, mutate, sites

ROOMS: dict[str, tuple[str, ...]] = {
    "auth": ("auth",),
    "broadcasts": ("broadcasts", "realtime/test_retained_broadcasts.py"),
    "cluster": ("cluster",),
    "connections": ("connections", "endpoints/test_sse.py"),
    "endpoints": ("endpoints", "auth/test_auth_routes.py"),
    "mesh": ("mesh",),
    "mesh/rabbitmq": ("mesh",),
    "realtime": ("realtime",),
    "redis": ("redis", "cluster/test_index.py"),
    "server": ("server",),
}
"""The packages of `bff`, and the tests in `tests/engine` that are to notice a change there."""
MAX_TESTS = 60
"""Of the tests that run the changed line, the fastest are tried."""
TRACE_SECONDS = 900
ENGINE = Path(PROJECT, "bff")
_IGNORED = shutil.ignore_patterns(".git", ".venv*", "build", "__pycache__", ".*_cache", ".env")
EQUIVALENT = Path(__file__).with_name("equivalent.txt")


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a mutant: `killed`, `survived`, `not run` by any test, or `equivalent`."""

    room: str
    path: str
    mutant: Mutant
    verdict: str

    def __str__(self) -> str:
        return f"{self.verdict:10} {self.path}:{self.mutant.line} {self.mutant}"


class Workshop:
    """A copy of the template, whose engine is changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = shutil.copytree(ROOT, folder / "template", ignore=_IGNORED)

    def trace(self, tests: Sequence[str]) -> dict[str, list[str]]:
        """Which tests run a line, `<path below bff>:<line>`: the fastest first.

        Raises:
            RuntimeError: no test passes without a change.
        """
        record = self._folder / "trace.json"
        record.unlink(missing_ok=True)
        self._pytest("-p", "tests.mutation.tracing", *tests, seconds=TRACE_SECONDS, record=record)
        passed = json.loads(record.read_text()) if record.exists() else {}
        if not passed:
            raise RuntimeError(f"no test passes without a change: {' '.join(tests)}")
        found: dict[str, list[tuple[float, str]]] = {}
        for name, facts in passed.items():
            for line in facts["lines"]:
                found.setdefault(line, []).append((facts["seconds"], name))
        return {line: [name for _, name in sorted(tests)] for line, tests in found.items()}

    def sources(self, room: str) -> Iterator[tuple[str, str]]:
        """The modules of a room, without those of its sub-packages."""
        for path in sorted((self._folder / ENGINE / room).glob("*.py")):
            yield f"{room}/{path.name}", path.read_text(encoding="utf-8")

    def is_noticed(self, path: str, mutant: Mutant, tests: Sequence[str], seconds: float) -> bool:
        """Whether a test fails, or they take longer than `seconds`."""
        module = self._folder / ENGINE / path
        original = module.read_text(encoding="utf-8")
        module.write_text(mutant.source, encoding="utf-8")
        try:
            return self._pytest("-x", *tests, seconds=seconds) != 0
        finally:
            module.write_text(original, encoding="utf-8")

    def _pytest(self, *arguments: str, seconds: float, record: Path | None = None) -> int:
        """pytest's exit code; -1 when it took too long."""
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not long"]
        variables = {
            "PYTHONPATH": str(self._folder / PROJECT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "MUTATION_TRACE": str(record),
        }
        try:
            return subprocess.run(
                [*command, *arguments],
                cwd=self._folder,
                env=os.environ | variables,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=seconds,
            ).returncode
        except subprocess.TimeoutExpired:
            return -1


def try_room(
    workshop: Workshop, room: str, sample: int, seed: int, until: float
) -> Iterator[Result]:
    """Try a sample of a room's mutants, until a time of `time.monotonic`."""
    if time.monotonic() > until:
        return
    sources = dict(workshop.sources(room))
    found = [(path, site) for path, text in sources.items() for site in sites(text)]
    chosen = random.Random(f"{room}/{seed}").sample(found, min(sample, len(found)))
    by_line = workshop.trace([f"tests/engine/{name}" for name in ROOMS[room]])
    known = EQUIVALENT.read_text(encoding="utf-8").splitlines()
    for path, site in chosen:
        if time.monotonic() > until:
            return
        mutant = mutate(sources[path], site)
        tests = by_line.get(f"{path}:{mutant.line}", [])[:MAX_TESTS]
        if any(line.startswith(f"{path} {mutant} #") for line in known):
            verdict = "equivalent"
        elif not tests:
            verdict = "not run"
        else:
            noticed = workshop.is_noticed(path, mutant, tests, seconds=60 + len(tests))
            verdict = "killed" if noticed else "survived"
        yield Result(room, path, mutant, verdict)
