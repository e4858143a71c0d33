"""Private Redis and RabbitMQ processes, which can be killed, frozen and rolled back."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

START_SECONDS = 120
STOP_SECONDS = 20
_POLL = 0.05

# Debian's `rabbitmq-server` in PATH changes user and refuses a private folder.
_BEFORE_PATH = {"rabbitmq-server": "/usr/lib/rabbitmq/bin/rabbitmq-server"}


class ServerError(Exception):
    """A server is missing or does not start; the message says what to do."""


def find(program: str) -> Path:
    """Where a program is.

    Raises:
        ServerError: it is not installed.
    """
    for path in (_BEFORE_PATH.get(program), shutil.which(program)):
        if path is not None and Path(path).exists():
            return Path(path)
    raise ServerError(
        f"{program} is missing. Install it; on Debian: "
        f"sudo apt-get install --no-install-recommends {program}"
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A server in its own process group and folder, always on the same port."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program = find(program)
        self.port = free_port()
        self.folder = folder
        self.folder.mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        return [str(self.program)]

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def ready(self) -> bool:
        """Whether it serves."""
        raise NotImplementedError

    def start(self) -> Self:
        """Start or restart it with the data in its folder; returns when it serves.

        Raises:
            ServerError: it does not start.
        """
        with (self.folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = (self.folder / "output.log").read_text(errors="replace")
                raise ServerError(f"{self.program} did not start:\n{log[-4000:]}")
            time.sleep(_POLL)
        return self

    def kill(self) -> None:
        """Kill it, as in a crash."""
        if self._process is not None:
            self.signal(signal.SIGKILL)
            self._process.wait(STOP_SECONDS)
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Signal the whole group: some servers are a script that starts the real process."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


class Redis(Server):
    """Syncs every write before it replies, so that `kill` loses nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__("redis-server", folder)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._data = folder / "data"
        self._older = folder / "older"
        self._data.mkdir()

    def command(self) -> list[str]:
        settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self._data),
            "save": "",
            "appendonly": "yes",
        }
        return [*super().command(), *(part for k, v in settings.items() for part in (f"--{k}", v))]

    def ready(self) -> bool:
        return _answers(self.port, b"PING\r\n", b"+PONG")

    def remember(self) -> None:
        """Save the current data for `roll_back`."""
        shutil.rmtree(self._older, ignore_errors=True)
        shutil.copytree(self._data, self._older)

    def roll_back(self) -> None:
        """While it is down: restore the data that `remember` saved."""
        self.wipe()
        if self._older.exists():
            shutil.copytree(self._older, self._data, dirs_exist_ok=True)

    def wipe(self) -> None:
        """While it is down: delete all data."""
        shutil.rmtree(self._data)
        self._data.mkdir()


class Rabbitmq(Server):
    """With its own port mapper (epmd), so that no process remains."""

    def __init__(self, folder: Path) -> None:
        super().__init__("rabbitmq-server", folder)
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        self._name = f"chaos-{secrets.token_hex(4)}@localhost"
        self._mapper_port = free_port()
        self._distribution_port = free_port()
        self._mapper: subprocess.Popen[bytes] | None = None
        (folder / "enabled_plugins").write_text("[].\n")
        (folder / "rabbitmq.conf").write_text("disk_free_limit.absolute = 50MB\n")

    def environment(self) -> dict[str, str]:
        mine = {
            "HOME": self.folder,
            "ERL_EPMD_PORT": self._mapper_port,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": self.port,
            "RABBITMQ_DIST_PORT": self._distribution_port,
            "RABBITMQ_CONFIG_FILE": self.folder / "rabbitmq",
            "RABBITMQ_CONF_ENV_FILE": self.folder / "no-environment-file",
            "RABBITMQ_MNESIA_BASE": self.folder / "data",
            "RABBITMQ_LOG_BASE": self.folder / "log",
            "RABBITMQ_FEATURE_FLAGS_FILE": self.folder / "feature_flags",
            "RABBITMQ_ENABLED_PLUGINS_FILE": self.folder / "enabled_plugins",
            "RABBITMQ_PID_FILE": self.folder / "pid",
            # Schedulers that wait must not spin: the machine is shared with the instances.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
        }
        return os.environ | {name: str(value) for name, value in mine.items()}

    def ready(self) -> bool:
        return _answers(self.port, b"AMQP\x00\x00\x09\x01", b"\x01")

    def start(self) -> Self:
        if self._mapper is None and (program := shutil.which("epmd")):
            # Erlang would start one as a daemon that outlives the run.
            self._mapper = subprocess.Popen(
                [program, "-port", str(self._mapper_port), "-address", "127.0.0.1"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        return super().start()

    def remove_mapper(self) -> None:
        if self._mapper is not None:
            self._mapper.terminate()
            self._mapper.wait(STOP_SECONDS)


def _answers(port: int, say: bytes, expected: bytes) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(say)
            return connection.recv(64).startswith(expected)
    except OSError:
        return False
