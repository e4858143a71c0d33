"""The connections of each user, on all instances."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from bff.cluster.context import ClusterContext
from bff.cluster.lease import InstanceFacts, Lease
from bff.cluster.presence_queue import PresenceQueue
from bff.cluster.reaper import Reaper
from bff.cluster.reconciler import Reconciler
from bff.cluster.scripts import load
from bff.cluster.streams import Page, PageWithVersions, StreamReader, page_arguments
from bff.connections.connection import Connection, instance_of
from bff.connections.positions import Position
from bff.errors import Code, Problem
from bff.names import check_user_id
from bff.redis.client import UNAVAILABLE, why
from bff.telemetry.metrics import CONNECTIONS_REFUSED

logger = logging.getLogger(__name__)

_BATCH: Final = 500
_CONNECTS_SECONDS: Final = 60
"""The window of the limit on connects per user."""
_REFUSAL: Final = 2
"""Number of values of a refusal (seconds to wait, number of connects); a page has more."""


@dataclass(frozen=True, slots=True)
class ConnectionDetails:
    """What administrators may see of a connection."""

    connection_id: str
    instance: str
    connected_at: float
    """Seconds since 1970."""
    address: str
    user_agent: str
    session_id: str
    """The sign-in that the token belongs to (claim `sid`). Empty if it names none."""


class ConnectionIndex:
    """The index in Redis, and this instance's entries in it.

    Each lease has a generation: the first lease of an instance, and each one that it takes after it
    lost the previous one. An entry is valid as long as its instance renews its lease; an instance
    counts as dead only when its lease has expired. An instance whose lease expired while it was
    stalled takes a lease with a new generation and writes all its entries again; the reaper removes
    only the entries of the dead generation. Every step is idempotent.
    """

    def __init__(
        self, context: ClusterContext, reader: StreamReader, presence: PresenceQueue
    ) -> None:
        self.instance_id = context.instance_id
        self.lease = Lease(context)
        self.reaper = Reaper(context, presence)
        self.reconciler = Reconciler(
            context, self.lease, presence, self.restore, self.reaper.remove_dead_entries
        )
        self._redis = context.redis
        self._pipeline = context.pipeline
        self._registry = context.registry
        self._resync_needed = context.resync_needed
        self._users_to_compare = context.users_to_compare
        self._settings = context.settings
        self._metrics = context.metrics
        self._keys = context.keys
        self._reader = reader
        self._presence = presence
        self.lease_error = "no lease yet"
        """Why the last renewal of the lease failed; empty when it succeeded."""
        self._is_complete = False
        """Whether all connections of this instance were entered under its current lease."""
        self._renewing = asyncio.Lock()
        self._has_dead = asyncio.Event()
        """Whether a renewal has found expired leases, or has replaced that of this instance."""
        self._former: set[str] = set()
        """Former leases of this instance. Users who connected before it took the next one are
        listed under them, perhaps after another instance had reaped them or Redis had lost them."""
        self._unregistered: list[Connection] = []
        """Closed connections that may still have an entry."""
        self._has_unregistered = asyncio.Event()
        self._register = load(context.pipeline, "register")

    # Connections

    async def register(
        self, connection: Connection, since: Mapping[str, Position], *, is_retry: bool = False
    ) -> tuple[Page, PageWithVersions] | None:
        """Add a connection, then read what the streams `user` and `all` contain after positions.

        All commands share one round trip, and Redis executes them in this order. A retry does not
        count as another connect of the user.

        Returns:
            A page of each stream; None when the user has too many connections.

        Raises:
            Problem: `rate_limited`, the user connects too often.
            RedisError, OSError, TimeoutError: Redis is unavailable.
        """
        member = self.lease.member
        user = self._keys.user(connection.user_id)
        user_added = self._pipeline.submit("SADD", self._users_key, connection.user_id)
        registered = self._register(
            [
                user.meta,
                user.stream,
                self._keys.connections(connection.user_id),
                self._keys.connects(connection.user_id),
            ],
            [
                *page_arguments(since.get("user"), self._settings),
                connection.id,
                self._entry(connection),
                self._settings.max_connections_per_user,
                self._settings.max_connects_per_minute,
                0 if is_retry else _CONNECTS_SECONDS,
            ],
        )
        all_read = self._reader.request_all(since.get("all"), after=registered)
        await user_added
        user_page = await registered
        if not user_page:
            return None
        if len(user_page) == _REFUSAL:
            raise self._too_many_connects(connection.user_id, *user_page)
        if self.lease.member != member:  # a new lease meanwhile: the entry names the old one
            await self._write([connection])
        await self._presence.on_connected([connection.user_id])
        return Page.of(user_page), PageWithVersions.of(await all_read)

    def _too_many_connects(self, user_id: str, seconds: int, connects: int) -> Problem:
        CONNECTIONS_REFUSED.labels("user").inc()
        if connects == self._settings.max_connects_per_minute + 1:
            logger.warning(
                "connections refused: the user connects too often", extra={"user": user_id}
            )
        return Problem(Code.RATE_LIMITED, "Too many connects: wait", retry_after_seconds=seconds)

    def unregister(self, connection: Connection) -> None:
        """Queue the removal of a connection's entry, for `remove_unregistered`."""
        self._unregistered.append(connection)
        self._has_unregistered.set()

    async def remove_unregistered(self) -> None:
        """Remove the entries of all unregistered connections."""
        while self._unregistered:
            batch = self._unregistered[:_BATCH]
            users_key = self._users_key
            gone = {c.user_id for c in batch if not self._registry.by_user(c.user_id)}
            async with self._redis.pipeline(transaction=False) as pipeline:
                for connection in batch:
                    pipeline.hdel(self._keys.connections(connection.user_id), connection.id)
                if gone:
                    pipeline.srem(users_key, *gone)
                await pipeline.execute()
            await self._presence.on_disconnected(gone)
            self._users_to_compare |= gone  # a late write or a failover may restore an entry
            # These have reconnected during this attempt, or during an earlier one that failed.
            back = {c.user_id for c in batch if self._registry.by_user(c.user_id)}
            if back:
                await self._redis.sadd(users_key, *back)
            del self._unregistered[: len(batch)]
        self._has_unregistered.clear()

    async def connections_of(self, user_id: str) -> list[ConnectionDetails]:
        """The user's connections on all instances that are not known to be dead.

        Raises:
            Problem: `invalid_params`, this is not a user id.
        """
        check_user_id(user_id)
        key = self._keys.connections(user_id)
        entries = await self._pipeline.read_hash(key)
        known = {self.instance_id, *(other.instance for other in self.lease.living)}
        if any(_instance(entry) not in known for entry in entries.values()):
            await self.reaper.remove_dead_entries(user_id)
            entries = await self._pipeline.read_hash(key)
        found = [
            _connection_details(field.decode(), entry)
            for field, entry in entries.items()
            if _member(entry) not in self.lease.dead
        ]
        return [details for details in found if not self._is_stale(details, user_id)]

    def _is_stale(self, details: ConnectionDetails, user_id: str) -> bool:
        """Whether an entry of this instance has no connection."""
        if details.instance != self.instance_id or self._registry.by_id(details.connection_id):
            return False
        self._users_to_compare.add(user_id)
        return True

    async def restore(self, connections: Iterable[Connection]) -> None:
        """Write the entries of open connections again, because Redis may have lost them.

        Between two batches the lease is renewed: all of them may take longer than it lives.
        """
        connections = [connection for connection in connections if connection.close_code is None]
        for start in range(0, len(connections), _BATCH):
            if start:
                await self.lease.renew()
            batch = connections[start : start + _BATCH]
            await self._write(batch)
            await self._presence.on_connected({connection.user_id for connection in batch})
            for connection in batch:
                if self._registry.by_id(connection.id) is None:  # closed during the write
                    self.unregister(connection)

    async def _write(self, connections: Sequence[Connection]) -> None:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for connection in connections:
                pipeline.sadd(self._users_key, connection.user_id)
            for connection in connections:
                key = self._keys.connections(connection.user_id)
                pipeline.hset(key, connection.id, self._entry(connection))
            await pipeline.execute()

    async def remove_dead_entries(self, user_id: str) -> None:
        """Remove a user's entries of dead instances, and those of this one without a connection:
        they must not count towards the limit."""
        await self.reaper.reap_expired(await self.renew())
        await self.reconciler.compare([user_id])
        await self.reaper.remove_dead_entries(user_id)

    # Instances

    async def instances(self) -> list[InstanceFacts]:
        """The living instances."""
        await self.renew()
        return list(self.lease.living)

    def is_living(self, instance_id: str) -> bool:
        """Whether an instance had a lease when this one last renewed its own."""
        return any(facts.instance == instance_id for facts in self.lease.living)

    def count(self) -> int:
        """Connections of all instances: of this one now, of the others as last reported."""
        others = (facts for facts in self.lease.living if facts.instance != self.instance_id)
        return len(self._registry) + sum(facts.connections for facts in others)

    async def run(self) -> None:
        """Renew the lease, reap dead instances, and remove and repair entries, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.reconciler.run())
            tasks.create_task(self._renew_periodically())
            tasks.create_task(self._reap_periodically())
            tasks.create_task(self._remove_periodically())

    async def _renew_periodically(self) -> None:
        has_failed = False
        while True:
            await asyncio.sleep(self._settings.lease_renewal_seconds)
            try:
                if await self.renew() or self._former:
                    self._has_dead.set()
                if has_failed:
                    self._resync_needed.set()
                has_failed = False
            except UNAVAILABLE as error:
                has_failed = True
                self.lease_error = why(error)
                logger.warning("could not renew lease", extra={"reason": self.lease_error})

    async def _reap_periodically(self) -> None:
        """Beside the renewals, which must not wait for it."""
        while True:
            await self._has_dead.wait()
            try:
                await self.reaper.reap_expired(self.lease.dead)
                await self._reap_former()
            except UNAVAILABLE as error:
                logger.warning(
                    "could not remove entries of dead instances, retrying",
                    extra={"reason": why(error)},
                )
            # Not before: a renewal meanwhile has set it again for the same leases.
            self._has_dead.clear()

    async def _remove_periodically(self) -> None:
        while True:
            await self._has_unregistered.wait()
            try:
                await self.remove_unregistered()
            except UNAVAILABLE as error:
                logger.warning(
                    "could not remove index entries, retrying",
                    extra={"reason": why(error), "entries": len(self._unregistered)},
                )
                await asyncio.sleep(self._settings.lease_renewal_seconds)

    async def renew(self) -> tuple[str, ...]:
        """Renew the lease, or take one with a new generation and write all entries again.

        Returns:
            `<instance>#<generation>` of every expired lease.

        Raises:
            RedisError, OSError, TimeoutError: Redis is unavailable.
        """
        async with self._renewing:
            if self._is_complete and await self.lease.renew():
                self.lease_error = ""
                return self.lease.dead
            if self._is_complete:
                self._metrics.lease_losses.inc()
                logger.warning(
                    "lease lost, taking a new one", extra={"instance": self.lease.member}
                )
            self._is_complete = False
            self._former.add(self.lease.member)
            await self.lease.take()
            await self.restore(self._registry)
            self._resync_needed.set()
            self._is_complete = True
            self.lease_error = ""
            return self.lease.dead

    async def release(self) -> None:
        """Remove all entries of this instance and its lease, when it stops.

        The queued entries of closed connections go first: `reap` finds entries by the instance's
        set of users, which may be incomplete because Redis has lost it.
        """
        await self.remove_unregistered()
        await self._reap_former()
        await self.reaper.reap(self.lease.member)

    async def _reap_former(self) -> None:
        for member in tuple(self._former):
            await self.reaper.reap(member)
            self._former.discard(member)

    @property
    def _users_key(self) -> str:
        return self._keys.users_of(self.lease.member)

    def _entry(self, connection: Connection) -> bytes:
        return b"%s %s" % (self.lease.member.encode(), orjson.dumps(connection.details))


def _member(entry: bytes) -> str:
    """The `<instance>#<generation>` of an entry."""
    return entry.split(b" ", 1)[0].decode()


def _instance(entry: bytes) -> str:
    return _member(entry).partition("#")[0]


def _connection_details(connection_id: str, entry: bytes) -> ConnectionDetails:
    details = orjson.loads(entry.split(b" ", 1)[1])
    return ConnectionDetails(
        connection_id=connection_id,
        instance=instance_of(connection_id),
        connected_at=details.get("connected_at", 0.0),
        address=details.get("address", ""),
        user_agent=details.get("user_agent", ""),
        session_id=details.get("session_id") or "",
    )
