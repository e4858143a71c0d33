"""One run: start, inject faults, wait until everything is delivered, check."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from bff.cluster.keys import Keys
from bff.mesh.connect import connect_mesh
from bff.telemetry.metrics import Metrics
from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.chaos.client import Client
from tests.chaos.deployment import LEASE, RENEWAL, Clock, Deployment
from tests.chaos.faults import Faults
from tests.chaos.history import DeadLettered, History, Indexed
from tests.chaos.plan import plan
from tests.chaos.traffic import ByAdmin, ByMesh, ByMethod, Traffic, Way, dead_letters

USERS = ("alice", "bob", "carol")
TOPICS = ("chaos.tea", "chaos.milk")
DEVICES = 3
"""Per user."""
ALLOWANCE = LEASE + 2 * RENEWAL + 2
LAST_SECONDS = 60
"""Time to deliver everything after the last fault."""


async def run(
    project: Path, seed: int, seconds: float, history: History, folder: Path, clock: Clock
) -> None:
    """Inject faults into a project's deployment for `seconds` and record the history.

    Raises:
        ServerError: a server is missing, or something does not start.
    """
    async with Deployment(project, folder, history, clock) as deployment:
        mesh = connect_mesh(deployment.settings, Metrics())
        await mesh.start()
        clock.start()
        clients = _clients(seed, deployment, history, clock)
        traffic = Traffic(history, clock, random.Random(f"{seed} traffic"))
        chance = random.Random(f"{seed} ways")
        ways: list[Way] = [ByMethod(deployment, chance), ByAdmin(deployment, chance), ByMesh(mesh)]
        streams = [*(f"user:{user}" for user in USERS), *(f"topic:{t}" for t in TOPICS), "all"]
        async with asyncio.TaskGroup() as background:
            tasks = [background.create_task(client.run()) for client in clients]
            tasks.append(background.create_task(_watch_index(deployment, history, clock)))
            flow = background.create_task(traffic.flow(ways, streams))
            await Faults(deployment, history, clock).carry_out(plan(seed, seconds))
            await asyncio.sleep(max(0.0, seconds - clock()))
            flow.cancel()
            await asyncio.wait({flow})
            await _settle(deployment, clients, traffic, ways, streams)
            for task in tasks:
                task.cancel()
        await mesh.stop()
        for message in await dead_letters(deployment):
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
                await asyncio.sleep(0.1)
    await asyncio.sleep(ALLOWANCE + 1)


def _has_last(client: Client, last: dict[str, set[int]]) -> bool:
    streams = (f"user:{client.user}", "all", *(f"topic:{topic}" for topic in client.topics))
    return all(last[stream] <= client.applied for stream in streams)


def _clients(seed: int, deployment: Deployment, history: History, clock: Clock) -> list[Client]:
    instances = list(deployment.instances.values())
    return [
        Client(
            f"{user}/{device}",
            user,
            TOPICS[:device],
            deployment.token(user),
            instances,
            history,
            clock,
            random.Random(f"{seed} {user} {device}"),
        )
        for user in USERS
        for device in range(DEVICES)
    ]


async def _watch_index(deployment: Deployment, history: History, clock: Clock) -> None:
    """Record the index in Redis every second, if Redis replies."""
    keys = Keys(deployment.settings.prefix)
    async with Redis.from_url(
        deployment.redis.url, socket_timeout=2, socket_connect_timeout=2, decode_responses=True
    ) as redis:
        while True:
            with suppress(RedisError, OSError, TimeoutError):
                async with redis.pipeline(transaction=True) as pipeline:
                    pipeline.zrange(keys.leases, 0, -1)
                    for user in USERS:
                        pipeline.hkeys(keys.connections(user))
                    leases, *found = await pipeline.execute()
                connections = [connection for each in found for connection in each]
                history.add(Indexed(at=clock(), leases=leases, connections=connections))
            await asyncio.sleep(1)
