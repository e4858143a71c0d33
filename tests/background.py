"""Tests that run in the background of all others, two runs at a time: the engine's, once for each
kind of server, and those of the docs and of the template. They take minutes and mostly wait."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from scripts.bake import ROOT
from tests import servers
from tests.baked import environment
from tests.servers import Server

_SECONDS = 1200


@dataclass(frozen=True)
class Run:
    """What a run is given. The servers, by variable, are its own: it breaks connections."""

    servers: Mapping[str, Callable[[], Server]] = field(default_factory=dict)
    parts: Sequence[str] = ("tests/engine",)
    marks: str = "not long"
    """Which tests of the parts, as for `pytest -m`."""
    variables: Mapping[str, str] = field(default_factory=dict)


DELIVERY = (
    "tests/engine/cluster",
    "tests/engine/redis",
    "tests/engine/auth/test_tickets.py",
    "tests/engine/sign_in/test_sessions.py",
    "tests/engine/broadcasts",
)
WITHOUT_SERVERS = ("chaos", "client", "connections", "contract", "server")
"""Rooms whose tests reach no Redis, RabbitMQ or database: the run on embedded engines is enough."""
IGNORED = tuple(f"--ignore=tests/engine/{room}" for room in WITHOUT_SERVERS)
REAL_SERVERS: Mapping[str, Callable[[], Server]] = {
    "TEST_REDIS_URL": servers.redis,
    "TEST_AMQP_URL": servers.rabbitmq,
    "TEST_DATABASE_URL": servers.postgres,
}
GIVEN = {name: os.environ[name] for name in REAL_SERVERS if name in os.environ}
"""Servers of the developer, for tests that start their own otherwise."""
RUNS: Mapping[str, Run] = {
    "real servers": Run(REAL_SERVERS, (*Run.parts, *IGNORED)),
    "embedded engines": Run(),
    "docs": Run(parts=("tests/docs",), variables=GIVEN),
    "template": Run(parts=("tests/template",), variables=GIVEN),
    "Redis Cluster": Run({"TEST_REDIS_URL": servers.redis_cluster}, DELIVERY),
    "Redis Sentinel": Run(
        {"TEST_REDIS_URL": partial(servers.redis_under_sentinel, patience_ms=60_000)}, DELIVERY
    ),
}


class BackgroundRuns:
    """All runs, begun when this is made."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=2)
        self._runs = {name: self._worker.submit(run_tests, run) for name, run in RUNS.items()}

    def skips_of(self, name: str) -> list[str]:
        """Wait for the end of a run; what it has skipped, a line each.

        Raises:
            AssertionError: a test has failed.
        """
        return self._runs[name].result()

    def close(self) -> None:
        """Begin no more of them, and wait for the end of those that run."""
        self._worker.shutdown(cancel_futures=True)


def run_tests(run: Run) -> list[str]:
    """Run them; what was skipped, a line each.

    Raises:
        AssertionError: a test has failed.
    """
    with ExitStack() as stack:
        variables = dict(run.variables)
        for variable, make in run.servers.items():
            server = make()
            stack.callback(server.remove)
            variables[variable] = server.url
        command = [sys.executable, "-m", "pytest", "-ra", "--tb=short", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, "-m", run.marks, *run.parts],
            cwd=ROOT,
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
        )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    return [line for line in done.stdout.splitlines() if line.startswith("SKIPPED")]
