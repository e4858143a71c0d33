"""The registry of this instance's connections."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from bff.connections.connection import Connection


class ConnectionRegistry:
    """This instance's connections by id, by user and by topic."""

    def __init__(self) -> None:
        self._by_id: dict[str, Connection] = {}
        self._by_user: dict[str, dict[str, Connection]] = {}
        self._by_topic: dict[str, dict[str, Connection]] = {}
        self._all: tuple[Connection, ...] | None = ()
        """A cache for `all`; None after a connection was added or removed."""
        self._empty = asyncio.Event()
        self._empty.set()

    def register(self, connection: Connection) -> None:
        """Add a connection."""
        self._by_id[connection.id] = connection
        self._all = None
        self._empty.clear()
        self._by_user.setdefault(connection.user_id, {})[connection.id] = connection

    def unregister(self, connection: Connection) -> None:
        """Remove a connection. Idempotent."""
        for topic in connection.topics:
            self.unsubscribe(connection, topic)
        self._by_id.pop(connection.id, None)
        self._all = None
        if not self._by_id:
            self._empty.set()
        of_user = self._by_user.get(connection.user_id)
        if of_user is not None:
            of_user.pop(connection.id, None)
            if not of_user:
                del self._by_user[connection.user_id]

    def by_id(self, connection_id: str) -> Connection | None:
        """The connection with that id, if this instance holds it."""
        return self._by_id.get(connection_id)

    def by_user(self, user_id: str) -> Sequence[Connection]:
        """The user's connections here: a copy, so connections may open and close meanwhile."""
        return tuple(self._by_user.get(user_id, {}).values())

    def subscribe(self, connection: Connection, topic: str) -> None:
        """Subscribe a connection to a topic. Idempotent."""
        self._by_topic.setdefault(topic, {})[connection.id] = connection
        connection.topics |= {topic}

    def unsubscribe(self, connection: Connection, topic: str) -> None:
        """Unsubscribe a connection from a topic. Idempotent."""
        connection.topics -= {topic}
        subscribers = self._by_topic.get(topic, {})
        subscribers.pop(connection.id, None)
        if not subscribers:
            self._by_topic.pop(topic, None)

    def by_topic(self, topic: str) -> Sequence[Connection]:
        """The connections here that are subscribed to the topic: a copy."""
        return tuple(self._by_topic.get(topic, {}).values())

    def has_subscriber(self, topic: str) -> bool:
        """Whether a connection here is subscribed to the topic."""
        return topic in self._by_topic

    def users(self) -> Sequence[str]:
        """The users with a connection here: a copy."""
        return tuple(self._by_user)

    async def wait_empty(self) -> None:
        """Wait until no connection is left."""
        await self._empty.wait()

    def all(self) -> Sequence[Connection]:
        """All connections: a copy."""
        if self._all is None:
            self._all = tuple(self._by_id.values())
        return self._all

    def __iter__(self) -> Iterator[Connection]:
        return iter(self.all())

    def __len__(self) -> int:
        return len(self._by_id)
