"""A private PostgreSQL without passwords for local connections."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from tests.servers.server import ProcessServer, answers

SSL_REQUEST = bytes.fromhex("0000000804d2162f")


class PostgresServer(ProcessServer):
    """Keeps its tables across a restart; the last writes may be lost after `kill`."""

    def __init__(self, program: Path) -> None:
        super().__init__(program)
        self.url = f"postgresql+asyncpg://postgres@127.0.0.1:{self.port}/postgres"
        if os.geteuid() == 0:
            self.user = _ordinary_user()
            shutil.chown(self.folder, self.user)
        subprocess.run(
            [
                *(str(program.with_name("initdb")), "--pgdata", str(self.folder / "data")),
                *("--username", "postgres", "--auth", "trust", "--encoding", "UTF8", "--no-sync"),
            ],
            cwd=self.folder,
            check=True,
            capture_output=True,
            user=self.user,
            group=self.user,
            extra_groups=[] if self.user else None,
        )

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
        }
        options = [part for k, v in settings.items() for part in ("-c", f"{k}={v}")]
        return [str(self.program), "-D", str(self.folder / "data"), "-p", str(self.port), *options]

    def ready(self) -> bool:
        return answers(self.port, SSL_REQUEST, b"N")


def _ordinary_user() -> str:
    """PostgreSQL refuses to run as root."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
