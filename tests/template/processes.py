"""Commands that serve until Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx2

from tests.baked import environment

DEADLINE = 120
INTERRUPTED = {0, 130, -signal.SIGINT}


@contextmanager
def running(
    command: Sequence[str | Path], folder: Path, log: Path, **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a process group of its own, as a terminal runs it."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(**variables),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> float:
    """The seconds until the instance is ready."""
    begin = time.monotonic()
    while time.monotonic() - begin < DEADLINE:
        assert process.poll() is None, log.read_text()
        try:
            if httpx2.get(f"{address}/health/ready").is_success:
                return time.monotonic() - begin
        except httpx2.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def interrupt(process: subprocess.Popen[bytes]) -> int:
    """Ctrl-C: the terminal sends SIGINT to the whole group."""
    os.killpg(process.pid, signal.SIGINT)
    return process.wait(DEADLINE)
