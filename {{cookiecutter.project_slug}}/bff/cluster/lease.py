"""The lease by which others know that this instance lives."""

from __future__ import annotations

import socket
import time
from dataclasses import asdict, dataclass, fields

import orjson

from bff.cluster.keys import Keys
from bff.cluster.scripts import load
from bff.connections.registry import ConnectionRegistry
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """What an instance reports with its lease."""

    instance: str
    host: str
    since: float
    connections: int
    users: int

    @classmethod
    def of(cls, text: bytes) -> InstanceFacts:
        """What an instance has reported, which may run another version of this."""
        facts = orjson.loads(text)
        return cls(*(facts[field.name] for field in fields(cls)))


class Lease:
    """This instance's lease, by Redis' own clock, and what Redis then says of all others.

    A lease that has run out cannot be renewed, nor one that was taken from another Redis process.
    Its instance takes one of the next *generation*, and what carries the old generation's mark is
    the dead's.
    """

    def __init__(
        self,
        instance_id: str,
        pipeline: AutoPipeline,
        registry: ConnectionRegistry,
        settings: Settings,
    ) -> None:
        self.instance_id = instance_id
        self.generation = 0
        self.living: tuple[InstanceFacts, ...] = ()
        self.dead: tuple[str, ...] = ()
        """Generations, of whatever instance, whose lease has run out and that nobody reaped."""
        self._registry = registry
        self._seconds = settings.lease_seconds
        self._keys = Keys(settings.prefix)
        self._since = time.time()
        self._script = load(pipeline, "lease")
        self._run_id = b""
        """Of the Redis that the lease was taken from."""

    @property
    def member(self) -> str:
        """This generation of this instance: its name among the leases, its mark in the index."""
        return f"{self.instance_id}#{self.generation}"

    async def renew(self) -> bool:
        """Hold the lease for another while; False when it has run out or Redis has lost it."""
        return bool(self.generation) and await self._hold(take=False)

    async def take(self) -> None:
        """Begin the next generation."""
        self.generation += 1
        await self._hold(take=True)

    async def _hold(self, *, take: bool) -> bool:
        facts = InstanceFacts(
            instance=self.instance_id,
            host=socket.gethostname(),
            since=self._since,
            connections=len(self._registry),
            users=len(self._registry.users()),
        )
        arguments: list[str | int | bytes] = [
            self.member,
            int(self._seconds * 1000),
            orjson.dumps(asdict(facts)),
            int(take),
            self._run_id,
        ]
        keys = [self._keys.leases, self._keys.lease_facts]
        holds, living, dead, run_id = await self._script(keys, arguments)
        if holds:
            self._run_id = run_id
            self.living = tuple(InstanceFacts.of(facts) for facts in living if facts)
            self.dead = tuple(member.decode() for member in dead)
        return bool(holds)
