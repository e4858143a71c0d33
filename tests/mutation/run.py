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
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from scripts.bake import PROJECT, ROOT
from tests.mutation.mutants import Mutant, mutate, sites

ROOMS: dict[str, tuple[str, ...]] = {
    ".": ("engine",),
    "audit": ("engine/audit",),
    "auth": (
        "engine/auth",
        "engine/endpoints",
        "engine/sign_in",
        "engine/cluster/test_revocations.py",
        "engine/realtime/test_session_ends.py",
    ),
    "auth/oidc": ("engine/sign_in",),
    "broadcasts": ("engine/broadcasts", "engine/realtime"),
    "cluster": ("engine/cluster", "engine/realtime", "engine/sign_in"),
    "connections": ("engine/connections", "engine/endpoints", "engine/realtime"),
    "contract": ("engine/contract", "engine/cluster/test_declared_events.py"),
    "db": ("engine/db", "engine/audit", "engine/broadcasts"),
    "development": ("engine/sign_in", "engine/client", "engine/endpoints"),
    "endpoints": (
        "engine/endpoints",
        "engine/auth",
        "engine/broadcasts",
        "engine/audit",
        "engine/sign_in",
        "engine/test_text.py",
    ),
    "mesh": ("engine/mesh", "engine/test_doctor.py"),
    "mesh/rabbitmq": ("engine/mesh", "engine/test_doctor.py"),
    "realtime": ("engine/realtime", "engine/endpoints", "engine/cluster", "engine/sign_in"),
    "redis": ("engine/redis", "engine/cluster"),
    "scaffold": ("template/test_new_feature.py",),
    "server": ("engine/server", "engine/endpoints"),
    "telemetry": ("engine",),
    "testing": ("engine",),
    "update": ("template/test_update_plan.py", "template/test_update.py"),
}
"""The packages of `bff`, `.` for the modules beside them, and what in `tests` is to notice a change
there, the room's own tests first."""
TESTS_SECONDS = 60
"""Of the tests that run the changed line, as many are tried as take this time."""
_START_SECONDS = 60
_SLOWER = 4
"""Tests that take so much longer than when they were traced have noticed the mutant: it hangs."""
TRACE_SECONDS = 1200
ENGINE = Path(PROJECT, "bff")
_IGNORED = shutil.ignore_patterns(".git", ".venv*", "build", "__pycache__", ".*_cache", ".env")
_UNTRACED = ("--ignore=tests/engine/chaos",)
EQUIVALENT = Path(__file__).with_name("equivalent.txt")


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a mutant: `killed`, `hung` (tests that wait without an end have noticed it
    too), `survived`, `not run` by any test, or `equivalent`."""

    room: str
    path: str
    mutant: Mutant
    verdict: str

    def __str__(self) -> str:
        return f"{self.verdict:10} {self.path}:{self.mutant.line} {self.mutant}"


class Test(NamedTuple):
    """A test, and how long it took when it was traced."""

    seconds: float
    name: str


class Workshop:
    """A copy of the template, whose engine is changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = shutil.copytree(ROOT, folder / "template", ignore=_IGNORED)
        self._traced: set[str] = set()
        self._tests: dict[str, Any] = {}
        """What was traced, by the name of the test: `seconds` and `lines`."""

    def trace(self, tests: Sequence[str]) -> dict[str, list[Test]]:
        """Which tests run a line, `<path below bff>:<line>`. Each test is traced once.

        Raises:
            RuntimeError: no test passes without a change.
        """
        if missing := [path for path in tests if not path.startswith(tuple(self._traced))]:
            record = self._folder / "trace.json"
            options = ("-p", "tests.mutation.tracing", *_UNTRACED)
            self._pytest(*options, *missing, seconds=TRACE_SECONDS, record=record)
            passed = json.loads(record.read_text()) if record.exists() else {}
            if not passed:
                raise RuntimeError(f"no test passes without a change: {' '.join(missing)}")
            record.unlink()
            self._traced |= set(missing)
            self._tests |= passed
        found: dict[str, list[Test]] = {}
        for name, facts in self._tests.items():
            if name.startswith(tuple(tests)):
                for line in facts["lines"]:
                    found.setdefault(line, []).append(Test(facts["seconds"], name))
        return found

    def sources(self, room: str) -> Iterator[tuple[str, str]]:
        """The modules of a room, without those of its sub-packages."""
        for path in sorted((self._folder / ENGINE / room).glob("*.py")):
            name = path.relative_to(self._folder / ENGINE).as_posix()
            yield name, path.read_text(encoding="utf-8")

    def verdict(self, path: str, mutant: Mutant, tests: Sequence[Test]) -> str:
        """What the tests make of a mutant: `killed`, `survived`, or `hung`."""
        seconds = _START_SECONDS + _SLOWER * sum(test.seconds for test in tests)
        module = self._folder / ENGINE / path
        original = module.read_text(encoding="utf-8")
        module.write_text(mutant.source, encoding="utf-8")
        try:
            code = self._pytest("-x", *(test.name for test in tests), seconds=seconds)
        finally:
            module.write_text(original, encoding="utf-8")
        return {0: "survived", -1: "hung"}.get(code, "killed")

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
    paths = [f"tests/{name}" for name in ROOMS[room]]
    by_line = workshop.trace(paths)
    known = EQUIVALENT.read_text(encoding="utf-8").splitlines()
    for path, site in chosen:
        if time.monotonic() > until:
            return
        mutant = mutate(sources[path], site)
        tests = _chosen(by_line.get(f"{path}:{mutant.line}", []), paths)
        if any(line.startswith(f"{path} {mutant} #") for line in known):
            verdict = "equivalent"
        elif not tests:
            verdict = "not run"
        else:
            verdict = workshop.verdict(path, mutant, tests)
        yield Result(room, path, mutant, verdict)


def _chosen(tests: Sequence[Test], paths: Sequence[str]) -> list[Test]:
    """In the order of the paths, the fastest first: as many as take `TESTS_SECONDS`, and at least
    one."""

    def rank(test: Test) -> tuple[int, float]:
        return next(at for at, path in enumerate(paths) if test.name.startswith(path)), test.seconds

    ordered = sorted(tests, key=rank)
    ends = accumulate(test.seconds for test in ordered)
    return [
        test
        for at, (test, end) in enumerate(zip(ordered, ends, strict=True))
        if not at or end < TESTS_SECONDS
    ]
