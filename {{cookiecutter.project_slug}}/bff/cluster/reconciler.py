"""Compares the index with the connections of this instance, and repairs what differs."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from bff.cluster.context import ClusterContext
from bff.cluster.lease import Lease
from bff.cluster.presence_queue import PresenceQueue
from bff.cluster.scripts import load
from bff.connections.connection import Connection
from bff.redis.client import UNAVAILABLE

logger = logging.getLogger(__name__)

_BATCH: Final = 500
"""Users that are compared in one round trip."""

_EXPIRY_LEASES: Final = 10
"""A user's entries expire after this many times `LEASE_SECONDS` without a comparison. Otherwise
entries of dead instances would stay if Redis restored them, or lost the set of their users."""


class Reconciler:
    """Compares both ways: an entry without a connection is removed, and a connection without an
    entry is written again. An entry of another instance that has had no lease for `LEASE_SECONDS`
    is removed too. Such entries exist when Redis has restarted with older data, or has lost the set
    by which `Reaper` finds the entries of dead instances.

    Every `LEASE_SECONDS` it compares the users with a connection here, and those in
    `ClusterContext.users_to_compare`, most of whom have no connection here but perhaps an entry.
    The set `Keys.users_of`, from which `Reaper` takes the users of a dead instance, may contain
    more users: it is read page by page to find them. A batch of users costs one `SADD`, one `SSCAN`
    and a script for each user, in one round trip, and an `SREM` in another one if some have no
    connection here.
    The script returns nothing when nothing differs.
    """

    def __init__(
        self,
        context: ClusterContext,
        lease: Lease,
        presence: PresenceQueue,
        restore: Callable[[Iterable[Connection]], Awaitable[None]],
        remove_dead_entries: Callable[[str], Awaitable[None]],
    ) -> None:
        self._pipeline = context.pipeline
        self._registry = context.registry
        self._users_to_compare = context.users_to_compare
        self._keys = context.keys
        self._metrics = context.metrics
        self._seconds = context.settings.lease_seconds
        self._expiry = math.ceil(_EXPIRY_LEASES * self._seconds)
        self._instance_prefix = context.instance_id + "."
        """The beginning of the ids of this instance's connections."""
        self._lease = lease
        self._presence = presence
        self._restore = restore
        self._remove_dead_entries = remove_dead_entries
        self._without_lease: dict[str, float] = {}
        """By `<instance>#<generation>` without a lease: when one of its entries was first seen."""
        self._compare = load(context.pipeline, "compare")
        self._scanned: tuple[str, int | bytes] = "", 0
        """Which set of users was scanned last, and the cursor in it."""

    async def run(self) -> None:
        """Compare until cancelled. While Redis is unavailable, the lease renewal logs it."""
        while True:
            users = list({*self._registry.users(), *self._users_to_compare})
            self._users_to_compare.clear()
            self._forget_first_seen()
            batches = [users[start : start + _BATCH] for start in range(0, len(users), _BATCH)]
            for batch in batches or [[]]:
                await asyncio.sleep(self._seconds / max(1, len(batches)))
                try:
                    await asyncio.gather(self.compare(batch), self._scan())
                except UNAVAILABLE:
                    self._users_to_compare.update(batch)

    async def _scan(self) -> None:
        """Read a page of the set `Keys.users_of`. Those of its users who have no connection here
        are compared next."""
        key = self._keys.users_of(self._lease.member)
        cursor = self._scanned[1] if self._scanned[0] == key else 0
        reply = await self._pipeline.submit("SSCAN", key, cursor, "COUNT", _BATCH)
        self._scanned = key, reply[0]
        users = map(bytes.decode, reply[1])
        self._users_to_compare.update(one for one in users if not self._registry.by_user(one))

    async def compare(self, users: Sequence[str]) -> None:
        """Compare the entries of users with their connections here.

        Raises:
            RedisError, OSError, TimeoutError: Redis is unavailable.
        """
        member = self._lease.member
        present = [user_id for user_id in users if self._registry.by_user(user_id)]
        requests: list[Awaitable[object]] = []
        if present:
            requests.append(self._pipeline.submit("SADD", self._keys.users_of(member), *present))
        results = [self._request(user_id, member) for user_id in users]
        await asyncio.gather(*requests, *results)
        if self._lease.member != member:  # all entries are being written again
            self._users_to_compare.update(users)
            return
        missing: list[Connection] = []
        stale: dict[str, list[str]] = {}
        without_lease: list[tuple[str, str]] = []
        for user_id, result in zip(users, results, strict=True):
            if (reply := result.result()) is None:
                continue
            differing, members = reply
            without_lease += [(user_id, member.decode()) for member in members]
            for connection_id in map(bytes.decode, differing):
                connection = self._registry.by_id(connection_id)
                if connection is None:
                    stale.setdefault(user_id, []).append(connection_id)
                elif connection.is_open:
                    missing.append(connection)
        if missing or stale:
            await self._repair(missing, stale)
        if without_lease:
            await self._remove_without_lease(without_lease)
        await self._remove_absent(member, users)

    async def _remove_without_lease(self, entries: Sequence[tuple[str, str]]) -> None:
        """Remove the entries that have had no lease for `LEASE_SECONDS`. An instance that has only
        lost its lease takes a new one at its next renewal, and writes its entries again."""
        now = time.monotonic()
        for user_id, member in entries:
            if now - self._without_lease.setdefault(member, now) >= self._seconds:
                await self._remove_dead_entries(user_id)
            else:
                self._users_to_compare.add(user_id)

    def _forget_first_seen(self) -> None:
        """Remove from `_without_lease` the leases that are known again, and those seen long ago,
        whose entries have been removed or have expired."""
        oldest = time.monotonic() - _EXPIRY_LEASES * self._seconds
        self._without_lease = {
            member: at
            for member, at in self._without_lease.items()
            if at > oldest and not self._lease.is_known(member)
        }

    async def _remove_absent(self, member: str, users: Sequence[str]) -> None:
        """Remove users without a connection here from the set `Keys.users_of`."""
        key = self._keys.users_of(member)
        gone = [user_id for user_id in users if not self._registry.by_user(user_id)]
        if gone:
            await self._pipeline.submit("SREM", key, *gone)
        back = [user_id for user_id in gone if self._registry.by_user(user_id)]
        if back:
            await self._pipeline.submit("SADD", key, *back)

    def _request(
        self, user_id: str, member: str
    ) -> asyncio.Future[tuple[list[bytes], list[bytes]] | None]:
        """What differs, as `compare.lua` returns it. An index entry begins with its member and a
        space."""
        ids = [connection.id for connection in self._registry.by_user(user_id)]
        return self._compare(
            [self._keys.connections(user_id)],
            [self._instance_prefix, f"{member} ", self._lease.known_members, self._expiry, *ids],
        )

    async def _repair(self, missing: Sequence[Connection], stale: dict[str, list[str]]) -> None:
        """Write the missing entries again, and delete the stale ones. A stale id needs no second
        look: ids are unique, so one that has left the registry does not come back."""
        await self._restore(missing)
        removals = [
            self._pipeline.submit("HDEL", self._keys.connections(user_id), *ids)
            for user_id, ids in stale.items()
        ]
        removed = sum(await asyncio.gather(*removals))
        await self._presence.on_disconnected(stale)
        if missing or removed:  # a connection that has just closed may have been removed already
            self._metrics.index_repairs.labels("restored").inc(len(missing))
            self._metrics.index_repairs.labels("removed").inc(removed)
            logger.warning(
                "index differed from the connections, repaired",
                extra={"restored": len(missing), "removed": removed},
            )
