"""Injects the faults of the plan and records them."""

from __future__ import annotations

import asyncio
import signal
from collections import defaultdict
from collections.abc import Sequence

from redis.asyncio import Redis

from tests.chaos.deployment import Clock, Deployment
from tests.chaos.history import Broke, Healed, History
from tests.chaos.plan import INSTANCES, SERVERS, Action, Fault
from tests.chaos.servers import Server


class Faults:
    """Injects faults. A target has one fault at a time: the next one waits."""

    def __init__(self, deployment: Deployment, history: History, clock: Clock) -> None:
        self._deployment = deployment
        self._history = history
        self._clock = clock
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def carry_out(self, faults: Sequence[Fault]) -> None:
        """Returns when the last fault has ended."""
        async with asyncio.TaskGroup() as tasks:
            for fault in faults:
                await asyncio.sleep(max(0.0, fault.at - self._clock()))
                tasks.create_task(self._one(fault))

    async def _one(self, fault: Fault) -> None:
        async with self._locks[fault.target]:
            self._history.add(Broke(at=self._clock(), fault=fault.number, what=str(fault)))
            if fault.target in INSTANCES:
                await self._on_instance(fault)
            elif fault.target in SERVERS:
                await self._on_server(fault)
            else:
                await self._on_link(fault)
            self._history.add(Healed(at=self._clock(), fault=fault.number))

    async def _on_instance(self, fault: Fault) -> None:
        instance = self._deployment.instances[fault.target]
        if fault.action is Action.FREEZE:
            instance.signal(signal.SIGSTOP)
            await asyncio.sleep(fault.seconds)
            instance.signal(signal.SIGCONT)
            return
        number = signal.SIGTERM if fault.action is Action.TERMINATE else signal.SIGKILL
        instance.signal(number)
        await instance.ended()
        await asyncio.sleep(fault.seconds)
        instance.start()
        await instance.heals()

    async def _on_server(self, fault: Fault) -> None:
        redis = self._deployment.redis
        server: Server = redis if fault.target == "redis" else self._deployment.rabbitmq
        if fault.action is Action.UNSUBSCRIBE:
            await self._unsubscribe()
            return
        if fault.action is Action.FREEZE:
            server.signal(signal.SIGSTOP)
            await asyncio.sleep(fault.seconds)
            server.signal(signal.SIGCONT)
            return
        server.kill()
        if fault.action is Action.WIPE:
            redis.wipe()
        elif fault.action is Action.ROLL_BACK:
            redis.roll_back()
        await asyncio.sleep(fault.seconds)
        await asyncio.to_thread(server.start)
        if server is redis:
            redis.remember()

    async def _unsubscribe(self) -> None:
        async with Redis.from_url(self._deployment.redis.url, socket_timeout=5) as client:
            await client.client_kill_filter(_type="pubsub")

    async def _on_link(self, fault: Fault) -> None:
        link = self._deployment.links[fault.target]
        if fault.action is Action.CUT:
            link.cut()
            return
        link.hold(
            to_server=fault.action in (Action.DEAFEN, Action.BLACK_HOLE),
            from_server=fault.action in (Action.SILENCE, Action.BLACK_HOLE),
        )
        await asyncio.sleep(fault.seconds)
        if fault.then_cut:
            link.cut()
        link.release()
