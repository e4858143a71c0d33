"""Processes that a test starts: their output is kept, and only they are ever ended."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import httpx2

from tests.baked import environment
from tests.e2e.waiting import until, until_true

START_SECONDS = 60.0
STOP_SECONDS = 30.0
_LISTENING = re.compile(r"running on http://127\.0\.0\.1:(\d+)")


class Program:
    """A process, in a session of its own so that its children end with it."""

    running: ClassVar[list[Program]] = []
    """All that were not closed yet: their output is shown when a test fails."""

    _numbers = itertools.count()

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        cwd: Path,
        logs: Path,
        variables: Mapping[str, str],
    ) -> None:
        self.name = name
        self._log = logs / f"{name}-{next(self._numbers)}.log"
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                cwd=cwd,
                env=environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running.append(self)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative is the signal that ended it."""
        return self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def exited(self, seconds: float = STOP_SECONDS) -> int:
        """Wait for its end and return its exit code."""
        await until(lambda: self.exit_code is not None, f"{self.name} has exited", seconds)
        assert self.exit_code is not None
        return self.exit_code

    def close(self) -> None:
        """End it in order; by force if it does not heed."""
        if self.exit_code is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
                self._process.wait(STOP_SECONDS)
        if self in self.running:
            self.running.remove(self)


class Instance(Program):
    """A BFF that serves, on a port of its own choice."""

    _port: int | None = None

    @property
    def port(self) -> int:
        if self._port is None:
            until_true(self._listens, f"{self.name} listens", START_SECONDS)
        assert self._port is not None
        return self._port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    def readiness(self) -> dict[str, Any]:
        """The current response of `/health/ready`."""
        answer: dict[str, Any] = httpx2.get(f"{self.url}/health/ready", timeout=10).json()
        return answer

    def is_ready(self) -> bool:
        assert self.exit_code is None, f"{self.name} has exited:\n{self.output}"
        try:
            ready: bool = self.readiness()["ready"]
        except httpx2.TransportError:
            return False
        return ready

    def until_ready(self) -> None:
        until_true(self.is_ready, f"{self.name} is ready", START_SECONDS)

    async def started(self, workers: int) -> None:
        """Wait until each of so many workers serves."""
        complete = "Application startup complete"
        await until(
            lambda: self.output.count(complete) >= workers,
            f"{workers} workers of {self.name} serve",
            START_SECONDS,
        )

    def workers(self) -> list[int]:
        """The ids of its worker processes."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [
            int(child)
            for child in children
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]

    def _listens(self) -> bool:
        assert self.exit_code is None, f"{self.name} has exited:\n{self.output}"
        found = _LISTENING.search(self.output)
        if found is not None:
            self._port = int(found[1])
        return found is not None
