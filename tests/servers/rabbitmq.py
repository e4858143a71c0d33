"""A private RabbitMQ with its own port mapper (epmd), so that no process remains."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from pathlib import Path
from typing import Self

from tests.servers.server import STOP_SECONDS, ProcessServer, answers, free_port

HELLO = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME = b"\x01"
CONTROL_SECONDS = 60


class RabbitmqServer(ProcessServer):
    """Keeps its durable queues and their messages across a restart."""

    tls_port = 0

    def __init__(self, program: Path, **settings: str) -> None:
        """`settings` are lines of rabbitmq.conf, `__` for a dot in their names."""
        super().__init__(program)
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        self._name = f"bff-{secrets.token_hex(4)}@localhost"
        self._mapper_port = free_port()
        self._distribution_port = free_port()
        self._mapper: subprocess.Popen[bytes] | None = None
        (self.folder / "enabled_plugins").write_text("[].\n")
        lines = {"disk_free_limit__absolute": "50MB"} | settings
        (self.folder / "rabbitmq.conf").write_text(
            "".join(f"{name.replace('__', '.')} = {value}\n" for name, value in lines.items())
        )

    def command(self) -> list[str]:
        return [str(self.program)]

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
            # Two cores are shared with the tests: schedulers that wait must not spin.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
        }
        return os.environ | {name: str(value) for name, value in mine.items()}

    def ready(self) -> bool:
        return answers(self.port, HELLO, METHOD_FRAME)

    def start(self) -> Self:
        self._start_mapper()
        return super().start()

    def remove(self) -> None:
        super().remove()
        if self._mapper is not None:
            self._mapper.terminate()
            self._mapper.wait(STOP_SECONDS)
            self._mapper = None

    def tool(self) -> list[str]:
        """The command that `control` runs, in `environment()`."""
        program = self.program.with_name("rabbitmqctl")
        return [str(program), "--quiet", "--node", self._name]

    def control(self, *arguments: str) -> str:
        return subprocess.run(
            [*self.tool(), *arguments],
            env=self.environment(),
            cwd=self.folder,
            check=True,
            capture_output=True,
            text=True,
            timeout=CONTROL_SECONDS,
        ).stdout

    def _start_mapper(self) -> None:
        """Erlang would start one as a daemon that outlives the tests."""
        program = shutil.which("epmd")
        if program is None or self._mapper is not None:
            return
        self._mapper = subprocess.Popen(
            [program, "-port", str(self._mapper_port), "-address", "127.0.0.1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
