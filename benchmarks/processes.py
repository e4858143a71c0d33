"""Servers as processes of ours: on a core of their own, watched through /proc, ended by id."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.parameters import PATIENCE_SECONDS

START_SECONDS = 30.0
STOP_SECONDS = 5.0
_POLL_SECONDS = 0.005
_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_KB = os.sysconf("SC_PAGE_SIZE") / 1024


class BenchError(Exception):
    """A candidate did not do what it was asked."""


@contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """Whatever is started in this block runs on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Process:
    """A server that was started for one measure."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        cores: set[int],
        log: Path,
        cwd: Path,
        variables: Mapping[str, str],
    ) -> None:
        self._log = log
        with on_cores(cores), log.open("wb") as output:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                cwd=cwd,
                env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def check(self) -> None:
        """Raise if it has ended."""
        if self._process.poll() is not None:
            raise BenchError(f"it has ended:\n{self.output()[-2000:]}")

    def wait(self) -> None:
        """Wait until it has done its work."""
        if self._process.wait(START_SECONDS):
            raise BenchError(f"it has failed:\n{self.output()[-2000:]}")

    def wait_for(self, word: str) -> None:
        """Wait until it has printed this."""
        deadline = time.monotonic() + START_SECONDS
        while word not in self.output():
            self.check()
            if time.monotonic() > deadline:
                raise BenchError(f"it did not say {word!r}:\n{self.output()[-2000:]}")
            time.sleep(_POLL_SECONDS)

    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def rss_kb(self) -> float:
        """Resident memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_KB

    def cpu_seconds(self) -> float:
        """User and system time so far; the kernel counts it in hundredths of a second."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        if self._process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait(STOP_SECONDS)


class Control:
    """The HTTP connection for the commands to a candidate."""

    def __init__(self, port: int) -> None:
        self._line = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
        self._line.connect()

    def fileno(self) -> int:
        return self._line.sock.fileno()

    def begin(self, command: str, **options: float) -> None:
        """Send a command without waiting for the answer. Reconnects if the server has closed the
        idle connection."""
        if select.select([self], [], [], 0)[0]:
            self._line.close()
            self._line.connect()
        query = "&".join(f"{name}={value}" for name, value in options.items())
        self._line.request("GET", f"/bench/{command}?{query}")

    def finish(self) -> dict[str, Any]:
        """The answer to what was begun."""
        response = self._line.getresponse()
        body = response.read()
        if response.status != 200:
            raise BenchError(f"HTTP {response.status}: {body[:500]!r}")
        answer: dict[str, Any] = json.loads(body)
        return answer

    def ask(self, command: str, **options: float) -> dict[str, Any]:
        self.begin(command, **options)
        return self.finish()

    def close(self) -> None:
        self._line.close()


def wait_until_ready(process: Process, port: int, path: str) -> None:
    """Ask for `path` until the answer is 200."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        process.check()
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            line.request("GET", path)
            if line.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            line.close()
        time.sleep(_POLL_SECONDS)
    raise BenchError(f"it was not ready after {START_SECONDS:.0f} s:\n{process.output()[-2000:]}")
