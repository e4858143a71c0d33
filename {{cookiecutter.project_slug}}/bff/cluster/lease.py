"""The lease that shows other instances that this one is alive."""

from __future__ import annotations

import socket
import time
from dataclasses import asdict, dataclass, fields

import orjson

from bff.cluster.context import ClusterContext
from bff.cluster.scripts import load


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """What an instance reports with its lease."""

    instance: str
    host: str
    since: float
    """Start of the instance, in seconds since 1970."""
    connections: int
    users: int

    @classmethod
    def of(cls, text: bytes) -> InstanceFacts:
        """Parse a report. Fields that this version does not know are ignored."""
        facts = orjson.loads(text)
        return cls(*(facts[field.name] for field in fields(cls)))


class Lease:
    """This instance's lease, which expires by the clock of Redis, and the leases of all others as
    of the last renewal.

    An expired lease cannot be renewed, nor can one that another Redis process granted. The instance
    then takes a lease with the next *generation*. Each entry of the connection index begins with
    the name of a lease, so entries with an older generation count as those of a dead instance.
    """

    def __init__(self, context: ClusterContext) -> None:
        self.instance_id = context.instance_id
        self.generation = 0
        self.living: tuple[InstanceFacts, ...] = ()
        self.dead: tuple[str, ...] = ()
        """`<instance>#<generation>` of every expired lease that has not been reaped yet."""
        self.known_members = ""
        """`<instance>#<generation>` of every lease, expired or not, each between two spaces."""
        self._registry = context.registry
        self._seconds = context.settings.lease_seconds
        self._keys = context.keys
        self._since = time.time()
        self._script = load(context.pipeline, "lease")
        self._run_id = b""
        """The `run_id` of the Redis process that granted the lease."""

    @property
    def member(self) -> str:
        """`<instance>#<generation>`: the name of the lease, and the first part of index entries."""
        return f"{self.instance_id}#{self.generation}"

    def is_known(self, member: str) -> bool:
        """Whether a lease existed, expired or not, when this one was last renewed or taken."""
        return f" {member} " in self.known_members

    async def renew(self) -> bool:
        """Renew the lease; False when none was taken, it has expired, or Redis has lost it."""
        return bool(self.generation) and await self._run_script(take=False)

    async def take(self) -> None:
        """Take a lease with the next generation."""
        self.generation += 1
        await self._run_script(take=True)

    async def _run_script(self, *, take: bool) -> bool:
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
        is_held, living, dead, run_id, members = await self._script(keys, arguments)
        if is_held:
            self._run_id = run_id
            self.living = tuple(InstanceFacts.of(facts) for facts in living if facts)
            self.dead = tuple(member.decode() for member in dead)
            self.known_members = f" {b' '.join([*members, *dead]).decode()} "
        return bool(is_held)
