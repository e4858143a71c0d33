"""The names of all Redis keys and channels. The keys of one script share a hash tag, and so a
slot."""

from __future__ import annotations

from typing import Final, NamedTuple

_ESCAPED: Final = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D"})


class StreamKeys(NamedTuple):
    """The keys of one stream of recoverable messages."""

    name: str
    """The stream's name in the browser protocol."""
    meta: str
    stream: str
    tag: str

    def idempotency(self, key: str) -> str:
        """hash: the result of the send with this idempotency key."""
        return f"{self.tag}:idem:{key}"


class Keys:
    """Keys and channels under one prefix, which contains the version of this schema."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.leases = f"{prefix}:{{instances}}"
        """zset: `<instance>#<generation>` to the end of its lease, in ms of Redis' clock."""
        self.lease_facts = f"{prefix}:{{instances}}:facts"
        """hash: `<instance>#<generation>` to JSON about the instance."""
        self.presence = f"{prefix}:{{presence}}"
        """zset: user id to when the user's presence is to be checked, in ms of Redis' clock."""
        self.event_handlers = f"{prefix}:{{event_handlers}}"
        """zset: name of a mesh event handler of any version to when it was last recorded, in s."""
        self.control_log = f"{prefix}:{{all}}:control"
        """stream: control messages that close connections or end subscriptions."""
        self.instance_channel_prefix = f"{prefix}:to:"
        """Prefix of the channel of one instance; the instance id follows."""
        self.all_channel = f"{prefix}:all"
        """The channel to which every instance subscribes."""
        self.all = self._stream("all", f"{prefix}:{{all}}")
        self.revocations = f"{prefix}:{{all}}:revoked"
        """zset: `<kind>:<id>` of what is revoked to when, in seconds since 1970."""

    def users_of(self, member: str) -> str:
        """set: the users with a connection of `<instance>#<generation>`. The reaper reads it when
        that lease has expired."""
        return f"{self.prefix}:{{instances}}:{member}:users"

    def connections(self, user_id: str) -> str:
        """hash: connection id to `<instance>#<generation> <facts>`."""
        return f"{self.prefix}:{{u:{_tagged(user_id)}}}:connections"

    def connects(self, user_id: str) -> str:
        """string: the connects of the user within a minute."""
        return f"{self.prefix}:{{u:{_tagged(user_id)}}}:connects"

    def user(self, user_id: str) -> StreamKeys:
        """The stream of one user."""
        return self._stream("user", f"{self.prefix}:{{u:{_tagged(user_id)}}}")

    def topic(self, topic: str) -> StreamKeys:
        """The stream of one topic."""
        return self._stream(f"topic:{topic}", f"{self.prefix}:{{t:{_tagged(topic)}}}")

    def topic_channel(self, topic: str) -> str:
        """The channel of a topic; the instances with a subscriber subscribe to it."""
        return f"{self.prefix}:topic:{topic}"

    @staticmethod
    def _stream(name: str, tag: str) -> StreamKeys:
        return StreamKeys(name, f"{tag}:meta", f"{tag}:stream", tag)


def _tagged(name: str) -> str:
    """A user id or topic as part of a hash tag, whose end it must not contain. Percent-encoded, so
    that different names have different keys."""
    if "}" in name or "{" in name or "%" in name:
        return name.translate(_ESCAPED)
    return name
