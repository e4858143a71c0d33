"""A private Redis that keeps nothing on disk."""

from __future__ import annotations

from pathlib import Path

from tests.servers.server import ProcessServer, answers


class RedisServer(ProcessServer):
    """Started again it is empty and has a new run id."""

    def __init__(self, program: Path) -> None:
        super().__init__(program)
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        settings = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no"}
        return [
            str(self.program),
            *(part for k, v in settings.items() for part in (f"--{k}", str(v))),
        ]

    def ready(self) -> bool:
        return answers(self.port, b"PING\r\n", b"+PONG")
