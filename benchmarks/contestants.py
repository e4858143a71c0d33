"""Who takes part: how each is started, and how a browser would open a socket to it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from benchmarks.client import Opening, Sockets, masked, upgrade
from benchmarks.processes import Control, Process, on_cores, wait_until_ready
from benchmarks.workshop import BUILD, Workshop
from scripts.bake import ROOT
from tests import servers
from tests.servers.server import Server, free_port

BROADCAST = frozenset({"broadcast", "connect"})
FAN_OUT = BROADCAST | {"users"}


@dataclass(frozen=True)
class Cores:
    """Who runs where."""

    server: frozenset[int]
    client: frozenset[int]
    """Redis and the mesh service run here too, unless there are more than two cores."""
    others: frozenset[int]

    @property
    def all(self) -> set[int]:
        return {*self.server, *self.client, *self.others}

    @classmethod
    def of_this_machine(cls) -> Cores:
        cores = sorted(os.sched_getaffinity(0))
        server, client = cores[0], cores[-1] if len(cores) == 1 else cores[1]
        others = frozenset(cores[2:]) or frozenset({client})
        return cls(frozenset({server}), frozenset({client}), others)


class Stage:
    """What every candidate finds: cores, Redis, RabbitMQ, a folder for logs."""

    def __init__(self, *, redis: Server | None = None, rabbitmq: Server | None = None) -> None:
        """Servers that are not given are started when they are needed, and end with the stage."""
        self.cores = Cores.of_this_machine()
        self.workshop = Workshop()
        self.logs = BUILD / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._given = {"redis": redis, "rabbitmq": rabbitmq}
        self._started: dict[str, Server] = {}
        self._numbers = itertools.count()

    @property
    def redis_url(self) -> str:
        return self._server("redis", set(self.cores.others), servers.private_redis).url

    @property
    def amqp_url(self) -> str:
        """RabbitMQ is not pinned: two mesh candidates share it, and neither is to wait for it."""
        return self._server("rabbitmq", self.cores.all, servers.private_rabbitmq).url

    def _server(self, name: str, cores: set[int], start: Callable[[], Server]) -> Server:
        server = self._given[name] or self._started.get(name)
        if server is None:
            with on_cores(cores):
                server = self._started[name] = start()
        return server

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        cores: frozenset[int] | None = None,
        cwd: Path = ROOT,
        variables: Mapping[str, str] | None = None,
    ) -> Process:
        return Process(
            command,
            cores=set(cores or self.cores.server),
            log=self.logs / f"{name}-{next(self._numbers)}.log",
            cwd=cwd,
            variables={"PYTHONPATH": str(ROOT), **(variables or {})},
        )

    def close(self) -> None:
        for server in self._started.values():
            server.remove()


class Contestant(ABC):
    """One candidate."""

    name: ClassVar[str]
    title: ClassVar[str]
    settings: ClassVar[str]
    """In words, for the report: what was set, what was not."""
    measures: ClassVar[frozenset[str]] = BROADCAST
    heartbeat: ClassVar[tuple[bytes, bytes] | None] = None
    ready_path: ClassVar[str] = "/bench/ready"

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    @abstractmethod
    def command(self, port: int) -> list[str | Path]:
        """Raises BenchError where it cannot run here."""

    def opening(self, number: int) -> Opening:
        return Opening(upgrade("/ws"))

    def start(self, port: int, *, cores: frozenset[int] | None = None) -> Process:
        return self.stage.start(self.name, self.command(port), cores=cores)

    def serve(self, *, cores: frozenset[int] | None = None) -> Serving:
        """Start it and wait until it serves."""
        port = free_port()
        serving = Serving(self, self.start(port, cores=cores), port)
        serving.until_ready()
        return serving


class Serving:
    """A running candidate, its sockets, and the connection for commands."""

    def __init__(self, contestant: Contestant, process: Process, port: int) -> None:
        self.process = process
        self._port = port
        self._ready_path = contestant.ready_path
        self.sockets = Sockets(port, contestant.opening, heartbeat=contestant.heartbeat)
        self._controls: list[Control] = []

    def until_ready(self) -> None:
        try:
            wait_until_ready(self.process, self._port, self._ready_path)
        except BaseException:
            self.process.stop()
            raise

    def control(self) -> Control:
        control = Control(self._port)
        self._controls.append(control)
        return control

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        self.sockets.close()
        for control in self._controls:
            control.close()
        self.process.stop()


class Ours(Contestant):
    name = "ours"
    title = "this template"
    settings = (
        "baked with its defaults, `ENVIRONMENT=production`, Redis and RabbitMQ, one process; every "
        "socket signed in with its own token and user; `MAX_MESSAGES_PER_MINUTE`, "
        "`MAX_MESSAGE_BURST` and the limits of handshakes lifted"
    )
    measures = FAN_OUT | {"instances", "mesh", "lag", "start"}
    ready_path = "/health/ready"

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self._secret = secrets.token_hex(32)
        self._app_name = "bench"

    def command(self, port: int) -> list[str | Path]:
        return [self.stage.workshop.project_python, "-m", "bff.cli", "serve", "--port", str(port)]

    def start(self, port: int, *, cores: frozenset[int] | None = None) -> Process:
        return self.run(self.command(port), cores=cores)

    def run(self, command: Sequence[str | Path], *, cores: frozenset[int] | None = None) -> Process:
        """Any command in the project, with its settings."""
        return self.stage.start(
            self.name,
            command,
            cores=cores,
            cwd=self.stage.workshop.project,
            variables={
                "PYTHONPATH": os.pathsep.join((str(self.stage.workshop.project), str(ROOT))),
                "APP_NAME": self._app_name,
                "ENVIRONMENT": "production",
                "REDIS_URL": self.stage.redis_url,
                "AMQP_URL": self.stage.amqp_url,
                "DATABASE_URL": f"sqlite+aiosqlite:///{self.stage.logs}/bff.sqlite3",
                "JWT_SECRET": self._secret,
                "MAX_MESSAGES_PER_MINUTE": "1000000000",
                "MAX_MESSAGE_BURST": "1000000000",
                "MAX_HANDSHAKES_PER_SECOND": "0",
                "MAX_HANDSHAKES_PER_SECOND_PER_ADDRESS": "0",
            },
        )

    def serve(self, *, cores: frozenset[int] | None = None) -> Serving:
        self._app_name = f"bench-{secrets.token_hex(4)}"
        self._schema.wait()
        return super().serve(cores=cores)

    def serve_another(self, *, cores: frozenset[int]) -> Serving:
        """One more instance of the application that was served last."""
        return super().serve(cores=cores)

    def opening(self, number: int) -> Opening:
        token = _token(self._secret, f"user-{number}")
        request = upgrade("/ws", f"Authorization: Bearer {token}")
        return Opening(request, ((b"\r\n\r\n", b""), (b'"positions"', b"")))

    @cached_property
    def _schema(self) -> Process:
        """`bff migrate`, once: in production no instance does it by itself."""
        return self.run([self.stage.workshop.project_python, "-m", "bff.cli", "migrate"])


class Gateway(Contestant):
    name = "nuropb_gw"
    title = "nuropb_gw 0.1.4"
    settings = (
        "Tornado on asyncio; tokens are checked with the standard library's hmac, the least that "
        "anybody can do; connected to RabbitMQ"
    )
    measures = FAN_OUT | {"mesh"}

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self._secret = secrets.token_hex(32)

    def command(self, port: int) -> list[str | Path]:
        python = self.stage.workshop.gateway_python
        arguments = (str(port), self.stage.amqp_url, self._secret)
        return [python, "-m", "benchmarks.candidates.gateway", *arguments]

    def opening(self, number: int) -> Opening:
        token = _token(self._secret, f"user-{number}")
        request = upgrade("/ws", f"Authorization: Bearer {token}")
        return Opening(request, ((b"\r\n\r\n", b""), (b'"username"', b"")))


class SocketIo(Contestant):
    name = "python-socketio"
    title = "python-socketio 5"
    settings = (
        "uvicorn, uvloop, sans-I/O protocol without deflate, WebSocket only, AsyncRedisManager; "
        "nobody is signed in"
    )
    measures = FAN_OUT | {"instances"}
    heartbeat = (b"\x81\x012", masked(b"3"))

    def command(self, port: int) -> list[str | Path]:
        python = self.stage.workshop.peers_python
        module = "benchmarks.candidates.socketio_server"
        return [python, "-m", module, str(port), self.stage.redis_url]

    def opening(self, number: int) -> Opening:
        request = upgrade(f"/socket.io/?EIO=4&transport=websocket&user=user-{number}")
        return Opening(request, ((b"0{", masked(b"40")), (b"40{", b"")))


class NodeSocketIo(SocketIo):
    name = "socket.io"
    title = "Node socket.io 4"
    settings = "`ws` engine, WebSocket only, Redis adapter; nobody is signed in"

    def command(self, port: int) -> list[str | Path]:
        script = self.stage.workshop.node / "socketio.mjs"
        return ["node", "--expose-gc", script, str(port), self.stage.redis_url]


class NodeWs(Contestant):
    name = "ws"
    title = "Node ws 8"
    settings = "the broadcast of its README, no deflate; nobody is signed in, no Redis"

    def command(self, port: int) -> list[str | Path]:
        return ["node", "--expose-gc", self.stage.workshop.node / "ws.mjs", str(port)]


class Tutorial(Contestant):
    name = "tutorial"
    title = "FastAPI tutorial"
    settings = "uvicorn, uvloop, sans-I/O protocol without deflate; nobody is signed in, no Redis"

    def command(self, port: int) -> list[str | Path]:
        return [self.stage.workshop.peers_python, "-m", "benchmarks.candidates.tutorial", str(port)]


class Detached(Ours):
    name = "detached"
    title = "bare handshake"
    settings = (
        "FastAPI accepts on uvicorn's own sans-I/O protocol, and the socket leaves its ASGI task: "
        "what one could start from; no tokens, no index, no Redis"
    )
    measures = frozenset({"connect"})
    ready_path = "/bench/ready"

    def command(self, port: int) -> list[str | Path]:
        python = self.stage.workshop.project_python
        return [python, "-m", "benchmarks.candidates.detached", str(port)]

    def opening(self, number: int) -> Opening:
        return Opening(upgrade("/ws"), ((b"\r\n\r\n", b""), (b'"positions"', b"")))


class Floor(Contestant):
    name = "floor"
    title = "bare uvloop"
    settings = (
        "a handshake by hand and one write of prepared bytes per message and socket: no HTTP "
        "server, no pings, no users"
    )

    def command(self, port: int) -> list[str | Path]:
        return [self.stage.workshop.peers_python, "-m", "benchmarks.candidates.floor", str(port)]


CONTESTANTS: tuple[type[Contestant], ...] = (
    Ours,
    Detached,
    Floor,
    NodeWs,
    NodeSocketIo,
    Tutorial,
    Gateway,
    SocketIo,
)


def _token(secret: str, user: str) -> str:
    """HS256 (RFC 7515), good for an hour, with the scope that mesh calls need."""
    claims = {"sub": user, "exp": int(time.time()) + 3600, "scope": "bench"}
    parts = (
        _encode(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims)
    )
    signed = ".".join(parts)
    signature = hmac.digest(secret.encode(), signed.encode(), hashlib.sha256)
    return f"{signed}.{_encode(signature)}"


def _encode(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()
