"""Which connections each user has, over all instances."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from bff.cluster.keys import Keys
from bff.cluster.lease import InstanceFacts, Lease
from bff.cluster.presence_queue import PresenceQueue
from bff.cluster.scripts import load
from bff.cluster.streams import Page, page_arguments
from bff.connections.connection import Connection, instance_of
from bff.connections.positions import Position
from bff.connections.registry import ConnectionRegistry
from bff.redis.client import UNAVAILABLE, RedisClient, why
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings
from bff.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

_BATCH = 500


@dataclass(frozen=True, slots=True)
class ConnectionFacts:
    """What administrators may see of a connection."""

    connection_id: str
    instance: str
    since: float
    """Seconds since 1970."""
    address: str
    device: str
    session: str


class Registration(NamedTuple):
    """A connection on its way into the index."""

    member: str
    """As whose connection it was entered: `<instance>#<generation>`."""
    held: asyncio.Future[Any]
    entered: asyncio.Future[Any]
    """A page of the user's stream, or nothing."""


class ConnectionIndex:
    """The index in Redis, and this instance's share of it.

    Entries live as long as their instance renews its lease: only an expired lease makes an
    instance dead. An instance whose lease ran out while it was away takes a new generation and
    writes all it holds anew; the reaper removes only what names the dead generation. Every step
    can be repeated, by anyone, at any time.
    """

    def __init__(
        self,
        instance_id: str,
        redis: RedisClient,
        pipeline: AutoPipeline,
        registry: ConnectionRegistry,
        presence: PresenceQueue,
        missed: asyncio.Event,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        """`missed` is set when messages may have passed this instance by."""
        self.instance_id = instance_id
        self.lease = Lease(instance_id, pipeline, registry, settings)
        self._redis = redis
        self._pipeline = pipeline
        self._registry = registry
        self._presence = presence
        self._missed = missed
        self._settings = settings
        self._metrics = metrics
        self._keys = Keys(settings.prefix)
        self.reason = "no lease yet"
        """Why the lease could not be renewed when it was last due; empty when it could."""
        self._leased = False
        """Whether all that this instance holds was entered under its lease."""
        self._renewing = asyncio.Lock()
        self._left: list[Connection] = []
        """Connections that are gone but may still be in the index."""
        self._leaving = asyncio.Event()
        self._register = load(pipeline, "register")
        self._reap = load(pipeline, "reap")

    # Connections

    def register(self, connection: Connection, since: Position | None = None) -> Registration:
        """Enter a connection in this turn of the loop, and read what its user was sent since a
        position; `registered` tells how it went."""
        user = self._keys.user(connection.user_id)
        return Registration(
            self.lease.member,
            self._pipeline.submit("SADD", self._held_users, connection.user_id),
            self._register(
                [user.meta, user.stream, self._keys.connections(connection.user_id)],
                [
                    *page_arguments(since, self._settings),
                    connection.id,
                    self._entry(connection),
                    self._settings.max_connections_per_user,
                ],
            ),
        )

    async def registered(self, connection: Connection, registration: Registration) -> Page | None:
        """What the user was sent; None when the user has too many connections."""
        await registration.held
        answer = await registration.entered
        if not answer:
            return None
        if self.lease.member != registration.member:
            await self._write([connection])
        await self._presence.come([connection.user_id])
        return Page.of(answer)

    def unregister(self, connection: Connection) -> None:
        """Remove a connection that has left the registry: soon, together with others."""
        self._left.append(connection)
        self._leaving.set()

    async def remove_left(self) -> None:
        """Remove the connections that were unregistered."""
        while self._left:
            batch = self._left[:_BATCH]
            users = self._held_users
            gone = {c.user_id for c in batch if not self._registry.by_user(c.user_id)}
            async with self._redis.pipeline(transaction=False) as pipeline:
                for connection in batch:
                    pipeline.hdel(self._keys.connections(connection.user_id), connection.id)
                if gone:
                    pipeline.srem(users, *gone)
                await pipeline.execute()
            await self._presence.leave(gone)
            back = {c.user_id for c in batch if self._registry.by_user(c.user_id)}
            if back:  # since, or since an attempt that failed half-way
                await self._redis.sadd(users, *back)
            del self._left[: len(batch)]
        self._leaving.clear()

    async def connections_of(self, user_id: str) -> list[ConnectionFacts]:
        """The user's connections, on whatever instance is not known to be dead."""
        entries = await self._pipeline.read_hash(self._keys.connections(user_id))
        return [
            _connection_facts(field.decode(), value)
            for field, value in entries.items()
            if value.split(b" ", 1)[0].decode() not in self.lease.dead
        ]

    # Instances

    async def instances(self) -> list[InstanceFacts]:
        """The living instances."""
        await self.renew()
        return list(self.lease.living)

    def is_living(self, instance_id: str) -> bool:
        """Whether an instance had a lease when this one last renewed its own."""
        return any(facts.instance == instance_id for facts in self.lease.living)

    def count(self) -> int:
        """Connections of all instances: our own now, the others' as they last reported."""
        others = (facts for facts in self.lease.living if facts.instance != self.instance_id)
        return len(self._registry) + sum(facts.connections for facts in others)

    async def run(self) -> None:
        """Renew the lease, reap the dead and remove who left, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._renew_for_ever())
            tasks.create_task(self._remove_for_ever())

    async def _renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_renewal_seconds)
            was_away = bool(self.reason)
            try:
                await self._reap_all(await self.renew())
                if was_away:
                    self._missed.set()
            except UNAVAILABLE as error:
                self.reason = why(error)
                logger.warning("lease not renewed: %s", self.reason)

    async def _remove_for_ever(self) -> None:
        while True:
            await self._leaving.wait()
            try:
                await self.remove_left()
            except UNAVAILABLE as error:
                logger.warning("entries stay for now: %s: %s", type(error).__name__, error)
                await asyncio.sleep(self._settings.lease_renewal_seconds)

    async def renew(self) -> tuple[str, ...]:
        """Renew the lease, or take one as a new generation; returns the dead generations."""
        async with self._renewing:
            if self._leased and await self.lease.renew():
                self.reason = ""
                return self.lease.dead
            if self._leased:
                self._metrics.lease_losses.inc()
                logger.warning("lease of %s is lost: a new generation begins", self.lease.member)
            self._leased = False
            await self.lease.take()
            await self._rewrite()
            self._missed.set()
            self._leased = True
            self.reason = ""
            return self.lease.dead

    async def leave(self) -> None:
        """Give everything back, at the end of the instance."""
        await self._reap_member(self.lease.member)

    async def _rewrite(self) -> None:
        """Enter every connection under the new generation."""
        await self.enter_again(self._registry)

    async def enter_again(self, connections: Iterable[Connection]) -> None:
        """Write entries that Redis may have lost; those that left meanwhile go again."""
        connections = [connection for connection in connections if connection.closing is None]
        for start in range(0, len(connections), _BATCH):
            batch = connections[start : start + _BATCH]
            await self._write(batch)
            await self._presence.come({connection.user_id for connection in batch})
            for connection in batch:
                if self._registry.by_id(connection.id) is None:
                    self.unregister(connection)

    async def _write(self, connections: Sequence[Connection]) -> None:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for connection in connections:
                pipeline.sadd(self._held_users, connection.user_id)
            for connection in connections:
                key = self._keys.connections(connection.user_id)
                pipeline.hset(key, connection.id, self._entry(connection))
            await pipeline.execute()

    # The dead

    async def _reap_all(self, members: Iterable[str]) -> None:
        for member in members:
            logger.warning("reaping %s: its lease has expired", member)
            await self._reap_member(member)

    async def _reap_member(self, member: str) -> None:
        users = self._keys.users_of(member)
        batch: list[str] = []
        async for user_id in self._redis.sscan_iter(users, count=_BATCH):
            batch.append(user_id.decode())
            if len(batch) == _BATCH:
                await self._reap_users(batch, member)
                batch.clear()
        await self._reap_users(batch, member)
        await self._redis.delete(users)
        await self._redis.hdel(self._keys.lease_facts, member)
        await self._redis.zrem(self._keys.leases, member)

    async def _reap_users(self, users: list[str], member: str) -> None:
        keys = [self._keys.connections(user_id) for user_id in users]
        removed = await asyncio.gather(*(self._reap([key], [member]) for key in keys))
        await self._presence.leave(users)
        self._metrics.entries_reaped.inc(sum(removed))

    async def forget_dead(self, user_id: str) -> None:
        """Before a user is told "too many": entries of dead instances do not count."""
        await self._reap_all(await self.renew())
        key = self._keys.connections(user_id)
        entries = await self._pipeline.read_hash(key)
        for member in {value.split(b" ", 1)[0] for value in entries.values()}:
            if await self._pipeline.submit("ZSCORE", self._keys.leases, member) is None:
                await self._reap([key], [member])

    # Values

    @property
    def _held_users(self) -> str:
        return self._keys.users_of(self.lease.member)

    def _entry(self, connection: Connection) -> bytes:
        return b"%s %s" % (self.lease.member.encode(), orjson.dumps(connection.facts))


def _connection_facts(connection_id: str, entry: bytes) -> ConnectionFacts:
    facts = orjson.loads(entry.split(b" ", 1)[1])
    return ConnectionFacts(
        connection_id=connection_id,
        instance=instance_of(connection_id),
        since=facts.get("since", 0.0),
        address=facts.get("address", ""),
        device=facts.get("device", ""),
        session=facts.get("session", ""),
    )
