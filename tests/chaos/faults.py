"""Injects the faults of the plan and records them."""

from __future__ import annotations

import asyncio
import signal
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from tests.chaos.deployment import Clock, Deployment
from tests.chaos.history import Broke, Healed, History
from tests.chaos.plan import ALL_INSTANCES, INSTANCES, Action, Fault
from tests.servers.server import Server

_RECOVERY_SECONDS: Final = 60.0
"""How long Redis may take to accept writes after a fault."""


class Faults:
    """Injects faults. A target has one fault at a time: the next one waits."""

    def __init__(self, deployment: Deployment, history: History, clock: Clock) -> None:
        self._deployment = deployment
        self._history = history
        self._clock = clock
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def carry_out(self, faults: Sequence[Fault], seconds: float) -> None:
        """Returns when the last fault has ended. Those that still wait after `seconds` are left
        out: on a busy machine an instance takes long to start."""
        async with asyncio.TaskGroup() as tasks:
            for fault in faults:
                await asyncio.sleep(max(0.0, fault.at - self._clock()))
                tasks.create_task(self._one(fault, seconds))

    async def _one(self, fault: Fault, seconds: float) -> None:
        async with self._locks[_lock(fault)]:
            if self._clock() > seconds:
                return
            self._history.add(Broke(at=self._clock(), fault=fault.number, what=str(fault)))
            if fault.target == ALL_INSTANCES:
                await self._replace_all()
            elif fault.target in INSTANCES:
                await self._on_instance(fault)
            elif fault.target in self._deployment.links:
                await self._on_link(fault)
            elif fault.target == "rabbitmq":
                await self._on_server(self._deployment.rabbitmq, fault)
            else:
                await self._on_redis(fault)
        if fault.target.startswith("redis"):
            await self._until_redis_accepts_writes()
        self._history.add(Healed(at=self._clock(), fault=fault.number))

    async def _replace_all(self) -> None:
        """A rolling update: each instance when the one before is ready."""
        for name, instance in self._deployment.instances.items():
            async with self._locks[name]:
                instance.signal(signal.SIGTERM)
                await instance.ended()
                instance.start()
                await instance.heals()

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

    async def _on_redis(self, fault: Fault) -> None:
        redis = self._deployment.redis
        if fault.action is Action.UNSUBSCRIBE:
            await asyncio.to_thread(redis.unsubscribe)
            return
        node = await asyncio.to_thread(redis.node, fault.target)
        if fault.action is Action.WIPE:
            await self._on_server(node, fault, node.wipe)
        elif fault.action is Action.ROLL_BACK:
            await self._on_server(node, fault, node.roll_back)
        else:
            await self._on_server(node, fault)
        await asyncio.to_thread(redis.remember)

    async def _until_redis_accepts_writes(self) -> None:
        """After a failover the new master refuses them until its replica has connected. The next
        fault does not wait for that."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_RECOVERY_SECONDS):
                while not await asyncio.to_thread(self._deployment.redis.accepts_writes):
                    await asyncio.sleep(0.2)

    async def _on_server(
        self, server: Server, fault: Fault, while_down: Callable[[], None] = lambda: None
    ) -> None:
        if fault.action is Action.FREEZE:
            server.pause()
            await asyncio.sleep(fault.seconds)
            server.resume()
            return
        await asyncio.to_thread(server.kill)
        while_down()
        await asyncio.sleep(fault.seconds)
        await asyncio.to_thread(server.start)

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


def _lock(fault: Fault) -> str:
    """Two nodes of one Redis have no faults at the same time."""
    return "redis" if fault.target.startswith("redis") else fault.target
