"""The engine's tests notice changes of the engine: `python -m tests.mutation`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from scripts.bake import ROOT
from tests import servers
from tests.mutation.mutants import mutate, sites
from tests.mutation.run import ENGINE, EQUIVALENT, ROOMS

SAMPLE = 3
"""Mutants of each room."""
SECONDS = 1500
LAST_SECONDS = 300
"""For the mutant, or the trace, that runs when `SECONDS` are over."""
AT_LEAST = 80
"""Per cent. Lower than what a person reaches who reads the survivors: some change nothing."""

MODULE = '''"""A module."""

LIMIT = 3


def first(numbers: list[int], *, strict: bool = True) -> int | None:
    """The first number below the limit."""
    for number in numbers:
        if number < LIMIT and not strict:
            return number
    print("none")
    return None


class Counter:
    """Counts."""

    step: int = 2

    def count(self, by: int = 1) -> None:
        """Count."""
        self.total = by
'''


def test_the_changes_of_a_function() -> None:
    found = [mutate(MODULE, site) for site in sites(MODULE)]
    assert {str(one) for one in found} == {
        "first: number < LIMIT and (not strict) → number < LIMIT or not strict",
        "first: number < LIMIT and (not strict) → not strict",
        "first: number < LIMIT and (not strict) → number < LIMIT",
        "first: number < LIMIT → number <= LIMIT",
        "first: not strict → strict",
        "first: return number → return None",
        "first: print('none') → pass",
        "Counter.count: self.total = by → pass",
    }
    for one in found:
        compile(one.source, "module", "exec")
        assert "LIMIT = 3" in one.source, "only functions are changed"
        assert "step: int = 2" in one.source
        assert one.source.count("\n") > 5


def test_every_package_of_the_engine_is_changed_and_every_path_of_tests_exists() -> None:
    engine = ROOT / ENGINE
    packages = {
        path.parent.relative_to(engine).as_posix()
        for path in engine.rglob("*.py")
        if "migrations" not in path.parts and sites(path.read_text(encoding="utf-8"))
    }
    assert packages - {"cluster/scripts"} == set(ROOMS)
    for path in {path for paths in ROOMS.values() for path in paths}:
        assert (ROOT / "tests" / path).exists(), path


@pytest.mark.long
def test_every_equivalent_mutant_exists() -> None:
    """Else a reason outlives the code that it is about, and could excuse another change."""
    lines = [line for line in EQUIVALENT.read_text(encoding="utf-8").splitlines() if " # " in line]
    mutants: set[str] = set()
    for path in {line.partition(" ")[0] for line in lines}:
        source = (ROOT / ENGINE / path).read_text(encoding="utf-8")
        mutants |= {f"{path} {mutate(source, site)} #" for site in sites(source)}
    unknown = [line for line in lines if not line.startswith(tuple(mutants))]
    assert unknown == []


@pytest.mark.long
def test_most_changes_of_the_engine_are_noticed() -> None:
    made = {
        "TEST_REDIS_URL": servers.redis(),
        "TEST_AMQP_URL": servers.rabbitmq(),
        "TEST_DATABASE_URL": servers.postgres(),
    }
    options = ["--sample", str(SAMPLE), "--seconds", str(SECONDS), "--at-least", str(AT_LEAST)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.mutation", *options],
            cwd=ROOT,
            env=os.environ | {name: server.url for name, server in made.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS + LAST_SECONDS,
        )
    finally:
        for server in made.values():
            server.remove()
    print(done.stdout)
    assert done.returncode == 0, "not enough are noticed, or a room was not tried"
