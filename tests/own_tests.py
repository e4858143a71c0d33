"""The generated project's own tests, run as its owner runs them: in the background, one run after
the other, while this run goes on. They take minutes and mostly wait."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from tests import servers
from tests.baked import InstalledProject
from tests.servers import Server


@dataclass(frozen=True)
class Run:
    """What a run is given. The servers, by variable, are its own: it breaks connections."""

    servers: Mapping[str, Callable[[], Server]] = field(default_factory=dict)
    parts: Sequence[str] = ()
    """All tests, if none is named."""


DELIVERY = ("tests/cluster", "tests/auth/test_tickets.py", "tests/broadcasts")
RUNS: Mapping[str, Run] = {
    "embedded engines": Run(),
    "real servers": Run(
        {
            "TEST_REDIS_URL": servers.redis,
            "TEST_AMQP_URL": servers.rabbitmq,
            "TEST_DATABASE_URL": servers.postgres,
        }
    ),
    "Redis Cluster": Run({"TEST_REDIS_URL": servers.redis_cluster}, DELIVERY),
    "Redis Sentinel": Run(
        {"TEST_REDIS_URL": partial(servers.redis_under_sentinel, patience_ms=60_000)}, DELIVERY
    ),
}


class OwnTests:
    """All runs, begun when this is made."""

    def __init__(self, project: InstalledProject) -> None:
        self._project = project
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._runs = {name: self._worker.submit(self._run, run) for name, run in RUNS.items()}

    def skips_of(self, name: str) -> list[str]:
        """Wait for the end of a run; what it has skipped, a line each.

        Raises:
            AssertionError: a test has failed.
        """
        return self._runs[name].result()

    def close(self) -> None:
        """Begin no more of them, and wait for the end of the one that runs."""
        self._worker.shutdown(cancel_futures=True)

    def _run(self, run: Run) -> list[str]:
        with ExitStack() as stack:
            variables: dict[str, str] = {}
            for variable, make in run.servers.items():
                server = make()
                stack.callback(server.remove)
                variables[variable] = server.url
            return self._project.run_tests(*run.parts, **variables)
