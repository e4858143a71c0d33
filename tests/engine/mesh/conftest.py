"""Each test runs on the in-process mesh, and on RabbitMQ if `TEST_AMQP_URL` is set."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest
from bff.errors import Code, Problem
from bff.mesh.client import MeshClient
from bff.mesh.events import EventHandler
from bff.mesh.messages import Context, MeshRequest
from bff.mesh.service import Service
from bff.settings import Settings
from bff.telemetry.metrics import Metrics
from bff.testing import until

from tests.engine.mesh.engines import Engine, MemoryEngine, RabbitEngine

StartClient = Callable[..., Awaitable[MeshClient]]


@pytest.fixture
def rabbitmq_url() -> str:
    if "TEST_AMQP_URL" not in os.environ:
        pytest.skip("needs RabbitMQ: TEST_AMQP_URL is not set")
    return os.environ["TEST_AMQP_URL"]


@pytest.fixture(params=["memory", "rabbitmq"])
def amqp_url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    url: str = request.getfixturevalue("rabbitmq_url")
    return url


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[Engine]:
    engine: MemoryEngine | RabbitEngine
    if settings.amqp_url == "memory://":
        engine = MemoryEngine(settings)
    else:
        engine = RabbitEngine(settings)
        await engine.start()
    yield engine
    await engine.close()


@pytest.fixture
async def start_client(
    settings: Settings, metrics: Metrics, engine: Engine
) -> AsyncIterator[StartClient]:
    """Starts clients with these event handlers and services, and waits until they are connected."""
    clients: list[MeshClient] = []

    async def start(
        *event_handlers: EventHandler, services: Sequence[Service] = (), **changed: Any
    ) -> MeshClient:
        client = MeshClient(settings.model_copy(update=changed), metrics, engine.transport())
        for event_handler in event_handlers:
            client.add_event_handler(event_handler)
        for service in services:
            client.add_service(service)
        clients.append(client)
        await client.start()
        await until(lambda: client.status.connected)
        return client

    yield start
    for client in clients:
        await client.stop()
    if isinstance(engine, RabbitEngine):
        for client in clients:
            await engine.delete_queues_of(client)


@pytest.fixture
async def mesh(start_client: StartClient) -> MeshClient:
    return await start_client()


@pytest.fixture
async def service(engine: Engine) -> str:
    """The name of a service in the mesh."""
    service = Service(f"service-{secrets.token_hex(4)}")
    notes: list[str] = []

    async def echo(request: MeshRequest) -> Any:
        return request.params

    async def correlation_id(request: MeshRequest) -> str:
        return request.correlation_id

    service.add("echo", echo)
    service.add("correlation_id", correlation_id)

    @service.method("context")
    async def context(context: Context) -> Context:
        return context

    @service.method("fail")
    async def fail() -> None:
        raise RuntimeError("a password in here")

    @service.method("refuse")
    async def refuse() -> None:
        raise Problem(Code.INVALID_PARAMS, "a must be positive")

    @service.method("wait")
    async def wait(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "waited"

    @service.method("note")
    async def note(text: str) -> None:
        notes.append(text)

    @service.method("notes_taken")
    async def notes_taken() -> list[str]:
        return notes

    await engine.serve(service)
    return service.name
