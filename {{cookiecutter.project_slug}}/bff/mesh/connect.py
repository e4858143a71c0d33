"""Makes mesh clients, for an app or for a service in a process of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from bff.mesh import nuropb
from bff.mesh.client import MeshClient
from bff.mesh.codec import Codec
from bff.mesh.memory import MemoryBroker, MemoryTransport
from bff.mesh.rabbitmq import dead_letters
from bff.mesh.rabbitmq.dead_letters import DeadLetter as DeadLetter
from bff.mesh.rabbitmq.dead_letters import DeadLetterQueue as DeadLetterQueue
from bff.mesh.rabbitmq.transport import AmqpTransport
from bff.mesh.service import Publish, Service
from bff.mesh.transport import MeshTransport
from bff.settings import MeshSettings
from bff.telemetry import logs
from bff.telemetry.metrics import Metrics


def connect_mesh(
    settings: MeshSettings,
    metrics: Metrics | None = None,
    *,
    broker: MemoryBroker | None = None,
    codec: Codec = nuropb,
    name: str = "mesh",
) -> MeshClient:
    """A client for `settings.amqp_url`. It connects when it is started.

    With the URL `memory://` clients that share a `broker` reach each other inside the process.
    `name` identifies the client in `/health/ready` and metrics: a second client needs another one.
    """
    transport: MeshTransport
    if settings.amqp_url == "memory://":
        transport = MemoryTransport(settings.app_name, broker or MemoryBroker())
    else:
        transport = AmqpTransport(settings)
    return MeshClient(settings, metrics or Metrics(), transport, codec=codec, name=name)


def open_dead_letters(settings: MeshSettings) -> AbstractAsyncContextManager[DeadLetterQueue]:
    """The dead letters of the event handlers, on RabbitMQ.

    Raises:
        ConnectionLost: RabbitMQ cannot be reached; when the context is entered.
        ValueError: the mesh is in-process.
    """
    if settings.amqp_url == "memory://":
        raise ValueError("memory:// keeps its dead letters inside the process")
    return dead_letters.open_dead_letters(settings)


async def run_service(
    make: Callable[[Publish], Service], settings: MeshSettings | None = None
) -> None:
    """Run a service of the mesh as a program, until SIGTERM or cancellation.

    `make` returns the service. Its argument is the function that publishes events.
    """
    settings = settings or MeshSettings()
    logs.configure(settings)
    mesh = connect_mesh(settings)
    await mesh.serve(make(mesh.publish))
