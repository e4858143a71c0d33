"""Every Redis key and channel. What one script touches shares a hash tag, so one slot."""

from __future__ import annotations

from typing import NamedTuple


class StreamKeys(NamedTuple):
    """A stream of recoverable messages. `name` is what browsers call it."""

    name: str
    meta: str
    stream: str
    tag: str

    def idempotency(self, key: str) -> str:
        """Under which the outcome of a send is remembered."""
        return f"{self.tag}:idem:{key}"


class Keys:
    """Names under one prefix, which carries the schema's version."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.leases = f"{prefix}:{{instances}}"
        """zset: `<instance>#<generation>` to the end of its lease, in ms of Redis' clock."""
        self.lease_facts = f"{prefix}:{{instances}}:facts"
        """hash: the same member to JSON about the instance."""
        self.presence = f"{prefix}:{{presence}}"
        """zset: user to when his presence is to be looked at, in ms of Redis' clock."""
        self.to_instance = f"{prefix}:to:"
        """Channel of one instance, without its id."""
        self.to_all = f"{prefix}:all"
        """Channel that every instance hears."""
        self.all = self._stream("all", f"{prefix}:{{all}}")

    def users_of(self, member: str) -> str:
        """set: whom a generation of an instance holds, for the reaper; lost with the lease only."""
        return f"{self.prefix}:{{instances}}:{member}:users"

    def connections(self, user_id: str) -> str:
        """hash: connection id to `<instance>#<generation> <facts>`."""
        return f"{self.prefix}:{{u:{user_id}}}:connections"

    def user(self, user_id: str) -> StreamKeys:
        """The stream of one user."""
        return self._stream("user", f"{self.prefix}:{{u:{user_id}}}")

    def topic(self, topic: str) -> StreamKeys:
        """The stream of one topic."""
        return self._stream(f"topic:{topic}", f"{self.prefix}:{{t:{topic}}}")

    def to_topic(self, topic: str) -> str:
        """Channel of a topic, which instances hear that hold a subscriber."""
        return f"{self.prefix}:topic:{topic}"

    @staticmethod
    def _stream(name: str, tag: str) -> StreamKeys:
        return StreamKeys(name, f"{tag}:meta", f"{tag}:stream", tag)
