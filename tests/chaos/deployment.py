"""Redis, RabbitMQ and three instances of the BFF, most of whose connections run through proxies."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar
from urllib.parse import urlsplit

import httpx2
from bff.auth.tokens import issue
from bff.settings import Settings

from tests import servers
from tests.chaos.history import Died, History, Sick
from tests.chaos.plan import INSTANCES, RedisKind, links
from tests.chaos.proxy import Proxy
from tests.chaos.redis_nodes import RedisNodes
from tests.servers.server import Server, ServerError, free_port

PROJECT = Path(__file__).resolve().parents[2] / "{{cookiecutter.project_slug}}"
"""The default project: that of the template."""
INSTANCE = Path(__file__).with_name("instance.py")
START_SECONDS = 60
STOP_SECONDS = 30
LEASE = 3.0
RENEWAL = 1.0
STREAM_LENGTH = 60
"""Small enough that a client that is away for long misses messages."""


T = TypeVar("T")
Made = TypeVar("Made", bound="Server | RedisNodes")


class Clock:
    """Seconds since the start of the run."""

    def __init__(self) -> None:
        self._zero = time.monotonic()

    def start(self) -> None:
        self._zero = time.monotonic()

    def __call__(self) -> float:
        return round(time.monotonic() - self._zero, 4)


class Project:
    """A project's code, and the Python that runs it."""

    def __init__(self, folder: Path) -> None:
        own = folder / ".venv" / "bin" / "python"
        self.folder = folder
        self.python = str(own) if own.exists() else sys.executable

    def environment(self, variables: dict[str, str]) -> dict[str, str]:
        """An environment in which the project's modules take precedence."""
        return os.environ | {"PYTHONPATH": str(self.folder)} | variables


class Instance:
    """An instance on its own port. A process that has died is restarted."""

    def __init__(
        self,
        name: str,
        project: Project,
        variables: dict[str, str],
        folder: Path,
        history: History,
        clock: Clock,
        workers: int,
    ) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._project = project
        self._variables = variables
        self._folder = folder
        self._history = history
        self._clock = clock
        self._workers = ["--workers", str(workers)] if workers > 1 else []
        self._number = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> str:
        """The current process, or the last one."""
        return f"{self.name}{self._number}"

    def start(self) -> None:
        """Start a process, without waiting for it."""
        self._number += 1
        with (self._folder / f"{self.process}.log").open("wb") as output:
            self._process = subprocess.Popen(
                [
                    *(self._project.python, "-P", str(INSTANCE), "serve"),
                    *("--port", str(self.port), *self._workers),
                ],
                cwd=self._project.folder,
                env=self._project.environment(self._variables),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def serves(self, path: str = "/health/live") -> str:
        """Wait until `path` returns 200. Returns its last response if that takes too long."""
        answer = ""
        deadline = time.monotonic() + START_SECONDS
        async with httpx2.AsyncClient(trust_env=False, timeout=2) as http:
            while time.monotonic() < deadline:
                try:
                    response = await http.get(self.url + path)
                except httpx2.TransportError as error:
                    answer = f"{type(error).__name__} {error}"
                else:
                    if response.is_success:
                        return ""
                    answer = response.text
                await asyncio.sleep(0.2)
        return f"{path}: {answer}"

    async def heals(self, path: str = "/health/live") -> None:
        """Wait until it serves; record it if it does not."""
        if reason := await self.serves(path):
            self._history.add(Sick(at=self._clock(), process=self.process, reason=reason))

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    async def ended(self) -> None:
        """Wait until the process ends; kill it if that takes too long."""
        process = self._process
        if process is None:
            return
        deadline = time.monotonic() + STOP_SECONDS
        while process.poll() is None:
            if time.monotonic() > deadline:
                self.signal(signal.SIGKILL)
            await asyncio.sleep(0.05)
        self._process = None
        self._history.add(Died(at=self._clock(), process=self.process))


@dataclass(frozen=True)
class Shape:
    """What a deployment consists of."""

    redis: RedisKind = RedisKind.SERVER
    workers: int = 1
    """Of each instance."""


class Deployment:
    """All processes and proxies, and their addresses."""

    redis: RedisNodes
    rabbitmq: Server

    def __init__(
        self, project: Path, folder: Path, history: History, clock: Clock, shape: Shape
    ) -> None:
        self._project = Project(project)
        self._shape = shape
        self.links: dict[str, Proxy] = {}
        self.instances: dict[str, Instance] = {}
        self._folder = folder
        self._history = history
        self._clock = clock
        self._made: list[Server | RedisNodes] = []
        self.settings: Settings

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    def token(self, user: str, *scopes: str) -> str:
        return issue(self.settings, user, scopes, lifetime=24 * 3600)

    async def _start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self.redis = await _aside(lambda: self._keep(RedisNodes(self._shape.redis)))
        self.rabbitmq = await _aside(lambda: self._keep(servers.private_rabbitmq()))
        self.settings = Settings(
            app_name="chaos",
            redis_url=self.redis.url,
            amqp_url=self.rabbitmq.url,
            jwt_secret=secrets.token_hex(32),
            jwt_algorithms="HS256",
            jwks_url=None,
        )
        variables = self._variables()
        await self._migrate(variables)
        for link in links(self._shape.redis):
            url = self.redis.url if link.endswith("-redis") else self.rabbitmq.url
            self.links[link] = await Proxy(urlsplit(url).port or 0).start()
        for name in INSTANCES:
            self.instances[name] = Instance(
                name,
                self._project,
                variables | self._through_proxies(name),
                self._folder,
                self._history,
                self._clock,
                self._shape.workers,
            )
            self.instances[name].start()
        for instance in self.instances.values():
            if reason := await instance.serves("/health/ready"):
                raise ServerError(f"instance {instance.process} does not start: {reason}")
        self.redis.remember()

    def _variables(self) -> dict[str, str]:
        assert self.settings.jwt_secret is not None
        return {
            "APP_NAME": self.settings.app_name,
            "ENVIRONMENT": "production",
            "LOG_FORMAT": "text",
            "REDIS_URL": self.redis.url,
            "AMQP_URL": self.rabbitmq.url,
            "DATABASE_URL": f"sqlite+aiosqlite:///{self._folder}/chaos.sqlite3",
            "JWT_SECRET": self.settings.jwt_secret.get_secret_value(),
            "JWT_ALGORITHMS": "HS256",
            "JWKS_URL": "",
            "LEASE_SECONDS": str(LEASE),
            "LEASE_RENEWAL_SECONDS": str(RENEWAL),
            "PUBSUB_PROBE_SECONDS": "1",
            "STREAM_CHECK_SECONDS": "3",
            "PING_INTERVAL_SECONDS": "2",
            "DRAIN_SECONDS": "2",
            "MAX_STREAM_LENGTH": str(STREAM_LENGTH),
            "MAX_MESSAGES_PER_MINUTE": "1000000",  # one user sends all the traffic over HTTP
            "MAX_MESSAGE_BURST": "10000",
        }

    def _through_proxies(self, instance: str) -> dict[str, str]:
        """The addresses of those servers that can have a proxy before them."""
        return {
            variable: url.replace(f":{urlsplit(url).port}", f":{self.links[link].port}")
            for variable, url, link in (
                ("REDIS_URL", self.redis.url, f"{instance}-redis"),
                ("AMQP_URL", self.rabbitmq.url, f"{instance}-rabbitmq"),
            )
            if link in self.links
        }

    async def _migrate(self, variables: dict[str, str]) -> None:
        migrated = await asyncio.create_subprocess_exec(
            *(self._project.python, "-m", "bff.cli", "migrate"),
            cwd=self._project.folder,
            env=self._project.environment(variables),
            stdout=asyncio.subprocess.DEVNULL,
        )
        if await migrated.wait():
            raise ServerError("bff migrate failed")

    def _keep(self, made: Made) -> Made:
        """Remove it in the end, also if the start fails later."""
        self._made.append(made)
        return made

    async def _stop(self) -> None:
        for instance in self.instances.values():
            instance.signal(signal.SIGKILL)
        for instance in self.instances.values():
            await instance.ended()
        for proxy in self.links.values():
            await proxy.stop()
        for made in self._made:
            await _aside(made.remove)


async def _aside(work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work)
