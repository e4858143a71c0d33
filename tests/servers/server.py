"""The interface of all test servers, and a server as a child process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Self

START_SECONDS = 180
STOP_SECONDS = 20
POLL_SECONDS = 0.05


class ServerError(Exception):
    """A server did not start, or cannot do what the test asks."""


class Server(ABC):
    """A server for tests: its `url`, and methods to break it."""

    url: str

    @abstractmethod
    def start(self) -> Self:
        """Start or restart it, on the same port, with the data on its disk."""

    @abstractmethod
    def stop(self) -> None:
        """Stop it gracefully."""

    @abstractmethod
    def kill(self) -> None:
        """Kill it with SIGKILL, as in a crash."""

    @abstractmethod
    def pause(self) -> None:
        """Freeze it: it keeps its connections and does not reply."""

    @abstractmethod
    def resume(self) -> None:
        """Resume it after `pause`."""

    @abstractmethod
    def remove(self) -> None:
        """Stop it and delete its data."""

    def control(self, *arguments: str) -> str:
        """Run the server's own command-line tool on it and return what it prints."""
        raise ServerError(f"{type(self).__name__} has no command-line tool")

    def restart(self) -> None:
        """Stop it gracefully and start it on the same port."""
        self.stop()
        self.start()


class GivenServer(Server):
    """A server that the tests did not start: it is used, but never stopped or broken."""

    def __init__(self, url: str, variable: str) -> None:
        self.url = url
        self._variable = variable

    def start(self) -> Self:
        return self

    def remove(self) -> None:
        pass

    def stop(self) -> None:
        self._refuse()

    def kill(self) -> None:
        self._refuse()

    def pause(self) -> None:
        self._refuse()

    def resume(self) -> None:
        self._refuse()

    def _refuse(self) -> None:
        raise ServerError(
            f"{self._variable} names a server that is not ours: take private_redis() or "
            "private_rabbitmq() for a test that breaks it"
        )


class ProcessServer(Server):
    """A server in its own process group and folder, on a free port."""

    user: str | None = None
    """The user that runs it, if root may not."""

    def __init__(self, program: Path) -> None:
        self.program = program
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="bff-test-"))
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]: ...

    @abstractmethod
    def ready(self) -> bool:
        """Whether it serves."""

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def start(self) -> Self:
        with (self.folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self.user,
                group=self.user,
                extra_groups=[] if self.user else None,
            )
        serves = False
        try:
            self._wait_until_ready(self._process)
            serves = True
        finally:
            if not serves:
                self.remove()
        return self

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self.ready():
            if process.poll() is not None or time.monotonic() > deadline:
                log = (self.folder / "output.log").read_text(errors="replace")
                raise ServerError(f"{self.program} did not start:\n{log[-4000:]}")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        if self._process is None:
            return
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self.kill()

    def kill(self) -> None:
        if self._process is None:
            return
        self._signal(signal.SIGKILL)
        self._process.wait(STOP_SECONDS)
        self._process = None

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _signal(self, number: int) -> None:
        """Signal the whole group: some servers are a script that starts the real process."""
        assert self._process is not None, "the server does not run"
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int, say: bytes, expected: bytes) -> bool:
    """Whether 127.0.0.1:port answers `say` with something that begins with `expected`."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(say)
            return connection.recv(64).startswith(expected)
    except OSError:
        return False
