"""The streams that have connections on this instance."""

from __future__ import annotations

from collections.abc import Sequence

from bff.cluster.context import ClusterContext
from bff.cluster.keys import StreamKeys
from bff.cluster.stream_tracker import CatchUp, StreamTracker
from bff.connections.connection import Connection


class StreamRegistry:
    """A tracker for each stream with a connection, and for the stream `all`."""

    def __init__(self, context: ClusterContext) -> None:
        self._registry = context.registry
        self._keys = context.keys
        self.all = StreamTracker("all", "")
        self._users: dict[str, StreamTracker] = {}
        self._topics: dict[str, StreamTracker] = {}

    def of_user(self, user_id: str) -> StreamTracker | None:
        """The stream of a user; None without a connection here."""
        return self._users.get(user_id)

    def of_topic(self, topic: str) -> StreamTracker | None:
        """The stream of a topic; None without a subscriber here."""
        return self._topics.get(topic)

    def subscribers(self, topic: str) -> Sequence[Connection]:
        """The connections here that get a message of the topic which is not stored: not those that
        wait for the response to their subscription, or still read what they have missed."""
        tracker = self._topics.get(topic)
        if tracker is None:
            return ()
        connections, catching_up = self._registry.by_topic(topic), tracker.catching_up
        if not catching_up:
            return connections
        return [
            one
            for one in connections
            if (catch_up := catching_up.get(one)) is None or catch_up.read_up_to is not None
        ]

    def trackers(self) -> list[StreamTracker]:
        """The trackers of all streams."""
        return [self.all, *self._users.values(), *self._topics.values()]

    def topics(self) -> Sequence[str]:
        """The topics with a subscriber here."""
        return tuple(self._topics)

    def join(self, connection: Connection) -> tuple[StreamTracker, StreamTracker]:
        """Add a connection to the streams of its user and of all. It gets no messages of them
        until `StreamHub.catch_up`."""
        user_id = connection.user_id
        tracker = self._users.get(user_id)
        if tracker is None:
            tracker = self._users[user_id] = StreamTracker("user", user_id)
        tracker.catching_up[connection] = CatchUp()
        self.all.catching_up[connection] = CatchUp()
        return tracker, self.all

    def join_topic(self, connection: Connection, topic: str) -> StreamTracker:
        """Add a connection to the stream of a topic, as `join` does. A subscriber that joins again
        catches up again."""
        tracker = self._topics.get(topic)
        if tracker is None:
            tracker = self._topics[topic] = StreamTracker(f"topic:{topic}", topic)
        tracker.catching_up[connection] = CatchUp()
        self._registry.subscribe(connection, topic)
        return tracker

    def leave(self, connection: Connection) -> None:
        """Remove a connection from all streams and from the connection registry. Idempotent."""
        for topic in connection.topics:
            self.leave_topic(connection, topic)
        self._registry.unregister(connection)
        self.all.catching_up.pop(connection, None)
        tracker = self._users.get(connection.user_id)
        if tracker is not None:
            tracker.catching_up.pop(connection, None)
            if not self._registry.by_user(tracker.target):
                self._users.pop(tracker.target).position = None

    def leave_topic(self, connection: Connection, topic: str) -> None:
        """Remove a connection from a topic. Idempotent."""
        self._registry.unsubscribe(connection, topic)
        tracker = self._topics.get(topic)
        if tracker is not None:
            tracker.catching_up.pop(connection, None)
            if not self._registry.by_topic(topic):
                self._topics.pop(topic).position = None

    def keys_of(self, tracker: StreamTracker) -> StreamKeys:
        """The Redis keys of a stream."""
        if tracker.stream == "user":
            return self._keys.user(tracker.target)
        return self._keys.topic(tracker.target) if tracker.target else self._keys.all

    def connections_of(self, tracker: StreamTracker) -> Sequence[Connection]:
        """The connections of a stream on this instance; a copy."""
        if tracker.stream == "user":
            return self._registry.by_user(tracker.target)
        return self._registry.by_topic(tracker.target) if tracker.target else self._registry.all()
