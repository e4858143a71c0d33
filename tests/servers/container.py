"""The servers as Docker containers, for machines without the programs."""

from __future__ import annotations

import secrets
import subprocess
import time
from typing import Self

from tests.servers.server import POLL_SECONDS, START_SECONDS, Server, ServerError, free_port

PULL_SECONDS = 600


class Container(Server):
    """A container with a port published on 127.0.0.1; a restart keeps container and port."""

    def __init__(
        self,
        image: str,
        *,
        port: int,
        url: str,
        ready: tuple[str, ...],
        environment: dict[str, str] | None = None,
    ) -> None:
        self._name = f"bff-test-{secrets.token_hex(4)}"
        self._ready = ready
        published = free_port()
        self.url = url.format(port=published)
        variables = [f"--env={name}={value}" for name, value in (environment or {}).items()]
        publish = f"--publish=127.0.0.1:{published}:{port}"
        _docker("create", f"--name={self._name}", publish, *variables, image)

    def start(self) -> Self:
        _docker("start", self._name)
        serves = False
        try:
            self._wait_until_ready()
            serves = True
        finally:
            if not serves:
                self.remove()
        return self

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not _succeeds("exec", self._name, *self._ready):
            if time.monotonic() > deadline:
                raise ServerError(f"{self._name} did not start:\n{_docker('logs', self._name)}")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        _docker("stop", self._name)

    def kill(self) -> None:
        _docker("kill", self._name)

    def pause(self) -> None:
        _docker("pause", self._name)

    def resume(self) -> None:
        _docker("unpause", self._name)

    def remove(self) -> None:
        _docker("rm", "--force", "--volumes", self._name)

    def control(self, *arguments: str) -> str:
        return _docker("exec", self._name, "rabbitmqctl", "--quiet", *arguments)


def _succeeds(*arguments: str) -> bool:
    return subprocess.run(["docker", *arguments], capture_output=True).returncode == 0


def _docker(*arguments: str) -> str:
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=PULL_SECONDS
    )
    if done.returncode:
        raise ServerError(f"docker {' '.join(arguments)}: {done.stderr}")
    return done.stdout
