"""The sockets that this instance holds."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from bff.connections.connection import Connection


class ConnectionRegistry:
    """Connections by id, by user and by topic."""

    def __init__(self) -> None:
        self._by_id: dict[str, Connection] = {}
        self._by_user: dict[str, dict[str, Connection]] = {}
        self._by_topic: dict[str, dict[str, Connection]] = {}
        self._everybody: tuple[Connection, ...] | None = ()
        """Made when it is asked for; None when somebody has come or gone since."""
        self._empty = asyncio.Event()
        self._empty.set()

    def register(self, connection: Connection) -> None:
        """Take a connection in."""
        self._by_id[connection.id] = connection
        self._everybody = None
        self._empty.clear()
        self._by_user.setdefault(connection.user_id, {})[connection.id] = connection

    def unregister(self, connection: Connection) -> bool:
        """Let a connection go; True when its user has no other here. Can be repeated."""
        for topic in connection.topics:
            self.unsubscribe(connection, topic)
        self._by_id.pop(connection.id, None)
        self._everybody = None
        if not self._by_id:
            self._empty.set()
        of_user = self._by_user.get(connection.user_id)
        if of_user is None:
            return True
        of_user.pop(connection.id, None)
        if of_user:
            return False
        del self._by_user[connection.user_id]
        return True

    def by_id(self, connection_id: str) -> Connection | None:
        """The connection of that id, if it is here."""
        return self._by_id.get(connection_id)

    def by_user(self, user_id: str) -> Sequence[Connection]:
        """The user's connections here; a copy, safe to keep while sockets come and go."""
        return tuple(self._by_user.get(user_id, {}).values())

    def subscribe(self, connection: Connection, topic: str) -> None:
        """Let a connection have a topic's messages. Can be repeated."""
        self._by_topic.setdefault(topic, {})[connection.id] = connection
        connection.topics |= {topic}

    def unsubscribe(self, connection: Connection, topic: str) -> None:
        """Take it back. Can be repeated."""
        connection.topics -= {topic}
        subscribers = self._by_topic.get(topic, {})
        subscribers.pop(connection.id, None)
        if not subscribers:
            self._by_topic.pop(topic, None)

    def by_topic(self, topic: str) -> Sequence[Connection]:
        """The topic's subscribers here; a copy."""
        return tuple(self._by_topic.get(topic, {}).values())

    def users(self) -> Sequence[str]:
        """Everyone who has a connection here."""
        return tuple(self._by_user)

    async def emptied(self) -> None:
        """Wait until no connection is left."""
        await self._empty.wait()

    def everybody(self) -> Sequence[Connection]:
        """All connections; a copy."""
        if self._everybody is None:
            self._everybody = tuple(self._by_id.values())
        return self._everybody

    def __iter__(self) -> Iterator[Connection]:
        return iter(self.everybody())

    def __len__(self) -> int:
        return len(self._by_id)
