"""A private Redis, and several of them as a cluster or under a sentinel."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Self

from tests.servers.server import (
    POLL_SECONDS,
    START_SECONDS,
    ProcessServer,
    Server,
    ServerError,
    answers,
    free_port,
)

COMMAND_SECONDS = 60
_EMPTY = '""'


class RedisServer(ProcessServer):
    """Started again it has a new run id; it is empty, unless `appendonly="yes"` keeps its data.

    `settings` are directives of redis.conf, `cluster_enabled` for `cluster-enabled`.
    """

    def __init__(self, program: Path, **settings: str) -> None:
        super().__init__(program)
        self.settings = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.folder),
            "save": "",
            "appendonly": "no",
            "appendfsync": "always",
        } | {name.replace("_", "-"): value for name, value in settings.items()}
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        options = (part for name, value in self.settings.items() for part in (f"--{name}", value))
        return [str(self.program), *options]

    def ready(self) -> bool:
        return answers(self.port, b"PING\r\n", b"+PONG") or answers(
            self.port, b"PING\r\n", b"-NOAUTH"
        )

    def wipe(self) -> None:
        """While it is down: delete all data."""
        shutil.rmtree(self._data, ignore_errors=True)

    def remember(self) -> None:
        """Save the data of `appendonly="yes"` for `roll_back`."""
        shutil.rmtree(self._older, ignore_errors=True)
        shutil.copytree(self._data, self._older)

    def roll_back(self) -> None:
        """While it is down: restore the data that `remember` saved."""
        self.wipe()
        if self._older.exists():
            shutil.copytree(self._older, self._data)

    @property
    def _data(self) -> Path:
        return self.folder / "appendonlydir"

    @property
    def _older(self) -> Path:
        return self.folder / "older"

    def control(self, *arguments: str, stdin: Path | None = None) -> str:
        program = self.program.with_name("redis-cli")
        password = self.settings.get("requirepass")
        login = ["--no-auth-warning", "-a", password] if password else []
        done = subprocess.run(
            [str(program), "-p", str(self.port), *login, *arguments],
            input=stdin.read_bytes() if stdin else None,
            capture_output=True,
            timeout=COMMAND_SECONDS,
        )
        output = (done.stdout + done.stderr).decode(errors="replace")
        if done.returncode or output.startswith(("ERR", "NOAUTH", "WRONGPASS")):
            raise ServerError(output)
        return output


class _RewritableRedis(RedisServer):
    """With a file of settings, in which a sentinel keeps its role across restarts."""

    def __init__(self, program: Path, **settings: str) -> None:
        super().__init__(program, **settings)
        self._file = self.folder / "redis.conf"
        lines = (f"{name} {value or _EMPTY}" for name, value in self.settings.items())
        self._file.write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return [str(self.program), str(self._file)]


class SentinelServer(RedisServer):
    """One sentinel that monitors `master` with a quorum of one."""

    def __init__(self, program: Path, master: RedisServer, patience_ms: int) -> None:
        super().__init__(program)
        self._file = self.folder / "sentinel.conf"
        self._file.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor mymaster 127.0.0.1 {master.port} 1\n"
            f"sentinel down-after-milliseconds mymaster {patience_ms}\n"
            "sentinel failover-timeout mymaster 5000\n"
        )

    def command(self) -> list[str]:
        return [str(self.program), str(self._file), "--sentinel"]


class _Several(Server):
    """Several servers that clients use as one."""

    def __init__(self, *servers: RedisServer) -> None:
        self.servers = servers

    def start(self) -> Self:
        for server in self.servers:
            server.start()
        deadline = time.monotonic() + START_SECONDS
        while not self.is_whole():
            if time.monotonic() > deadline:
                self.remove()
                raise ServerError(f"{type(self).__name__} does not come together")
            time.sleep(POLL_SECONDS)
        return self

    def is_whole(self) -> bool:
        """Whether all nodes are connected."""
        raise NotImplementedError

    def stop(self) -> None:
        for server in self.servers:
            server.stop()

    def kill(self) -> None:
        for server in self.servers:
            server.kill()

    def pause(self) -> None:
        for server in self.servers:
            server.pause()

    def resume(self) -> None:
        for server in self.servers:
            server.resume()

    def remove(self) -> None:
        for server in self.servers:
            server.remove()


class RedisCluster(_Several):
    """Three nodes without replicas. A restarted node rejoins."""

    def __init__(self, program: Path, **settings: str) -> None:
        super().__init__(
            *(
                RedisServer(
                    program,
                    cluster_enabled="yes",
                    cluster_port=str(free_port()),
                    cluster_node_timeout="1000",
                    **settings,
                )
                for _ in range(3)
            )
        )
        self.url = f"redis+cluster://127.0.0.1:{self.servers[0].port}"
        self._joined = False

    def is_whole(self) -> bool:
        if not self._joined:
            addresses = [f"127.0.0.1:{server.port}" for server in self.servers]
            self.servers[0].control("--cluster", "create", *addresses, "--cluster-yes")
            self._joined = True
        return all("cluster_state:ok" in one.control("cluster", "info") for one in self.servers)


class RedisUnderSentinel(_Several):
    """A master, a replica and a sentinel, which fails over when the master is silent for
    `patience_ms`."""

    def __init__(self, program: Path, patience_ms: int = 1000, **settings: str) -> None:
        self.master = _RewritableRedis(program, **settings)
        self.replica = _RewritableRedis(
            program,
            replicaof=f"127.0.0.1 {self.master.port}",
            replica_announce_ip="127.0.0.1",
            **settings,
        )
        self.sentinel = SentinelServer(program, self.master, patience_ms)
        super().__init__(self.master, self.replica, self.sentinel)
        self.url = f"redis+sentinel://127.0.0.1:{self.sentinel.port}/mymaster/0"

    def is_whole(self) -> bool:
        """Whether the sentinel can fail over: it knows the replica, which is in sync."""
        replicas = self.sentinel.control("sentinel", "replicas", "mymaster")
        return str(self.replica.port) in replicas and "master_link_status:up" in (
            self.replica.control("info", "replication")
        )

    def current_master(self) -> RedisServer:
        """The one that the sentinel names."""
        address = self.sentinel.control("sentinel", "get-master-addr-by-name", "mymaster")
        return self.master if str(self.master.port) in address.split() else self.replica

    def current_replica(self) -> RedisServer:
        return self.replica if self.current_master() is self.master else self.master
