"""Redis, RabbitMQ and three instances of the BFF, which connect to the servers through proxies."""

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
from pathlib import Path
from typing import Self

import httpx2
from bff.auth.tokens import issue
from bff.settings import Settings

from tests.chaos.history import Died, History, Sick
from tests.chaos.plan import INSTANCES
from tests.chaos.proxy import Proxy
from tests.chaos.servers import Rabbitmq, Redis, ServerError, free_port

PROJECT = Path(__file__).resolve().parents[2] / "{{cookiecutter.project_slug}}"
"""The default project: that of the template."""
INSTANCE = Path(__file__).with_name("instance.py")
START_SECONDS = 60
STOP_SECONDS = 30
LEASE = 3.0
RENEWAL = 1.0
STREAM_LENGTH = 60
"""Small enough that a client that is away for long misses messages."""


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
    ) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._project = project
        self._variables = variables
        self._folder = folder
        self._history = history
        self._clock = clock
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
                [self._project.python, "-P", str(INSTANCE), "serve", "--port", str(self.port)],
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


class Deployment:
    """All processes and proxies, and their addresses."""

    def __init__(self, project: Path, folder: Path, history: History, clock: Clock) -> None:
        """
        Raises:
            ServerError: Redis or RabbitMQ is not installed.
        """
        self._project = Project(project)
        self.redis = Redis(folder / "redis")
        self.rabbitmq = Rabbitmq(folder / "rabbitmq")
        self.links = {
            f"{name}-{server}": Proxy(port)
            for name in INSTANCES
            for server, port in (("redis", self.redis.port), ("rabbitmq", self.rabbitmq.port))
        }
        self.instances: dict[str, Instance] = {}
        self._folder = folder
        self._history = history
        self._clock = clock
        secret = secrets.token_hex(32)
        self.settings = Settings(
            app_name="chaos",
            redis_url=self.redis.url,
            amqp_url=self.rabbitmq.url,
            jwt_secret=secret,
            jwt_algorithms="HS256",
            jwks_url=None,
        )
        self._variables = {
            "APP_NAME": self.settings.app_name,
            "ENVIRONMENT": "production",
            "LOG_FORMAT": "text",
            "REDIS_URL": self.redis.url,
            "AMQP_URL": self.rabbitmq.url,
            "DATABASE_URL": f"sqlite+aiosqlite:///{folder}/chaos.sqlite3",
            "JWT_SECRET": secret,
            "JWT_ALGORITHMS": "HS256",
            "JWKS_URL": "",
            "LEASE_SECONDS": str(LEASE),
            "LEASE_RENEWAL_SECONDS": str(RENEWAL),
            "PUBSUB_PROBE_SECONDS": "1",
            "STREAM_CHECK_SECONDS": "3",
            "DRAIN_SECONDS": "2",
            "MAX_STREAM_LENGTH": str(STREAM_LENGTH),
            "MAX_MESSAGES_PER_MINUTE": "1000000",  # one user sends all the traffic over HTTP
            "MAX_MESSAGE_BURST": "10000",
        }

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
        await asyncio.gather(_aside(self.redis.start), _aside(self.rabbitmq.start))
        migrated = await asyncio.create_subprocess_exec(
            *(self._project.python, "-m", "bff.cli", "migrate"),
            cwd=self._project.folder,
            env=self._project.environment(self._variables),
            stdout=asyncio.subprocess.DEVNULL,
        )
        if await migrated.wait():
            raise ServerError("bff migrate failed")
        for proxy in self.links.values():
            await proxy.start()
        for name in INSTANCES:
            redis, rabbitmq = self.links[f"{name}-redis"], self.links[f"{name}-rabbitmq"]
            variables = self._variables | {
                "REDIS_URL": f"redis://127.0.0.1:{redis.port}/0",
                "AMQP_URL": f"amqp://guest:guest@127.0.0.1:{rabbitmq.port}/",
            }
            self.instances[name] = Instance(
                name, self._project, variables, self._folder, self._history, self._clock
            )
            self.instances[name].start()
        for instance in self.instances.values():
            if reason := await instance.serves("/health/ready"):
                raise ServerError(f"instance {instance.process} does not start: {reason}")
        self.redis.remember()

    async def _stop(self) -> None:
        for instance in self.instances.values():
            instance.signal(signal.SIGKILL)
        for instance in self.instances.values():
            await instance.ended()
        for proxy in self.links.values():
            await proxy.stop()
        await _aside(self.redis.kill)
        await _aside(self.rabbitmq.kill)
        await _aside(self.rabbitmq.remove_mapper)


async def _aside(work: Callable[[], object]) -> None:
    await asyncio.to_thread(work)
