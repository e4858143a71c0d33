"""One run: start, inject faults, wait until everything is delivered, check."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from bff.cluster.keys import Keys
from bff.mesh.connect import connect_mesh
from bff.redis.client import create_client
from bff.telemetry.metrics import Metrics
from redis.exceptions import RedisError

from tests.chaos.clients import (
    Client,
    EventStreamClient,
    Page,
    Pages,
    Visitor,
    WebSocketClient,
)
from tests.chaos.clients.base import Recorder
from tests.chaos.deployment import LEASE, RENEWAL, Clock, Deployment, Shape
from tests.chaos.faults import Faults
from tests.chaos.history import DeadLettered, History, Indexed
from tests.chaos.plan import plan
from tests.chaos.traffic import ByAdmin, ByMesh, ByMethod, Http, Traffic, Way, dead_letters
from tests.node import websocket_command

USERS = ("alice", "bob", "carol")
TOPICS = ("chaos.tea", "chaos.milk")
SOCKETS = 3
"""Per user, beside an event stream and two pages with `bff-client.js`."""
BLOCKED = 0.7
"""The share of WebSockets that a proxy refuses to one page of each user. It then changes from event
streams to a WebSocket and back."""
ALLOWANCE = LEASE + 2 * RENEWAL + 2
_INDEX_SECONDS = 2
LAST_SECONDS = 60
"""After the last fault: how long nothing may arrive until everything has arrived."""


async def run(
    project: Path,
    seed: int,
    seconds: float,
    history: History,
    folder: Path,
    clock: Clock,
    shape: Shape,
) -> None:
    """Inject faults into a project's deployment for `seconds` and record the history.

    Raises:
        ServerError: a server is missing, or something does not start.
    """
    async with (
        Deployment(project, folder, history, clock, shape) as deployment,
        aclosing(
            Http(
                list(deployment.instances.values()),
                deployment.token("chaos", "admin"),
                random.Random(f"{seed} ways"),
            )
        ) as http,
    ):
        mesh = connect_mesh(deployment.settings, Metrics())
        await mesh.start()
        clock.start()
        recorder = Recorder(history, clock)
        visitors = _visitors(seed, deployment, recorder)
        pages = Pages(
            [] if (node := websocket_command()) is None else _pages(deployment),
            project=project,
            addresses=list(deployment.instances.values()),
            recorder=recorder,
        )
        clients: list[Client] = [*visitors, *pages.pages.values()]
        traffic = Traffic(history, clock, random.Random(f"{seed} traffic"))
        ways: list[Way] = [ByMethod(http), ByAdmin(http), ByMesh(mesh)]
        streams = [*(f"user:{user}" for user in USERS), *(f"topic:{t}" for t in TOPICS), "all"]
        async with asyncio.TaskGroup() as background:
            tasks = [background.create_task(visitor.run()) for visitor in visitors]
            if node is not None:
                tasks.append(background.create_task(pages.run(node)))
            tasks.append(background.create_task(_watch_index(deployment, history, clock)))
            flow = background.create_task(traffic.flow(ways, streams))
            await Faults(deployment, history, clock).carry_out(
                plan(seed, seconds, shape.redis), seconds
            )
            await asyncio.sleep(max(0.0, seconds - clock()))
            flow.cancel()
            await asyncio.wait({flow})
            await _settle(deployment, clients, traffic, ways, streams)
            for task in tasks:
                task.cancel()
        await mesh.stop()
        for message in await dead_letters(deployment.rabbitmq.url, deployment.settings.app_name):
            history.add(DeadLettered(at=clock(), message=message))


async def _settle(
    deployment: Deployment,
    clients: Sequence[Client],
    traffic: Traffic,
    ways: Sequence[Way],
    streams: Sequence[str],
) -> None:
    """Reconnect all clients, and wait until they have the last message of every stream."""
    for instance in deployment.instances.values():
        await instance.heals("/health/ready")
    for client in clients:
        client.stays.set()
    with suppress(TimeoutError):
        async with asyncio.timeout(LAST_SECONDS):
            for client in clients:
                await client.ready.wait()
            last = await traffic.last(ways, streams)
        while not all(_has_last(client, last) for client in clients):
            async with asyncio.timeout(LAST_SECONDS):
                await _something_arrives(clients)
    await asyncio.sleep(ALLOWANCE + 1)


async def _something_arrives(clients: Sequence[Client]) -> None:
    """Events that waited for RabbitMQ or Redis may take long to be handled."""
    before = sum(len(client.applied) for client in clients)
    while sum(len(client.applied) for client in clients) == before:
        await asyncio.sleep(0.1)


def _has_last(client: Client, last: dict[str, set[int]]) -> bool:
    return all(last[stream] <= client.applied for stream in client.streams)


def _visitors(seed: int, deployment: Deployment, recorder: Recorder) -> list[Visitor]:
    def visitor(kind: type[Visitor], user: str, device: str, topics: Sequence[str]) -> Visitor:
        return kind(
            f"{user}/{device}",
            user,
            topics,
            deployment.token(user),
            addresses=list(deployment.instances.values()),
            recorder=recorder,
            chance=random.Random(f"{seed} {user} {device}"),
        )

    return [
        *(
            visitor(WebSocketClient, user, str(number), TOPICS[:number])
            for user in USERS
            for number in range(SOCKETS)
        ),
        *(visitor(EventStreamClient, user, "events", TOPICS) for user in USERS),
    ]


def _pages(deployment: Deployment) -> list[Page]:
    return [
        Page(f"{user}/{name}", user, TOPICS, deployment.token(user), blocked=blocked)
        for user in USERS
        for name, blocked in (("page", 0), ("page-behind-proxy", BLOCKED))
    ]


async def _watch_index(deployment: Deployment, history: History, clock: Clock) -> None:
    """Record the index in Redis every second, if Redis replies."""
    keys = Keys(deployment.settings.prefix)
    async with create_client(deployment.redis.url) as redis:
        while True:
            with suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(_INDEX_SECONDS):
                    leases = await redis.zrange(keys.leases, 0, -1)
                    found = [await redis.hkeys(keys.connections(user)) for user in USERS]
                history.add(
                    Indexed(
                        at=clock(),
                        leases=[_text(lease) for lease in leases],
                        connections=[_text(entry) for each in found for entry in each],
                    )
                )
            await asyncio.sleep(1)


def _text(value: Any) -> str:
    text: str = value.decode()
    return text
