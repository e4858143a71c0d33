"""The engine's tests notice changes of the engine: `python -m tests.mutation`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from scripts.bake import ROOT
from tests import servers
from tests.mutation.mutants import mutate, sites

SAMPLE = 5
"""Mutants of each room."""
SECONDS = 2400
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


@pytest.mark.long
def test_most_changes_of_the_engine_are_noticed() -> None:
    redis, rabbitmq = servers.redis(), servers.rabbitmq()
    options = ["--sample", str(SAMPLE), "--seconds", str(SECONDS), "--at-least", str(AT_LEAST)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.mutation", *options],
            cwd=ROOT,
            env=os.environ | {"TEST_REDIS_URL": redis.url, "TEST_AMQP_URL": rabbitmq.url},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=3 * SECONDS,
        )
    finally:
        redis.remove()
        rabbitmq.remove()
    assert done.returncode == 0, done.stdout
