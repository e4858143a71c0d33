"""The registry agrees with a simple model of it, whatever is done in whatever order."""

from __future__ import annotations

import asyncio

from bff.connections.connection import Connection
from bff.connections.registry import ConnectionRegistry
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tests.engine.doubles import RecordingTransport

_USERS = ("alice", "bob")
_TOPICS = ("news", "orders", "weather")
_user_ids = st.sampled_from(_USERS)
_topics = st.sampled_from(_TOPICS)


def make(connection_id: str, user_id: str = "alice") -> Connection:
    return Connection(connection_id, user_id, RecordingTransport(), max_queue_bytes=1000)


class RegistryMachine(RuleBasedStateMachine):
    """Connections come and go, subscribe and unsubscribe; most steps are sometimes repeated."""

    registered: Bundle[Connection] = Bundle("registered")
    gone: Bundle[Connection] = Bundle("gone")

    def __init__(self) -> None:
        super().__init__()
        self.registry = ConnectionRegistry()
        self.made = 0
        self.topics: dict[Connection, set[str]] = {}
        """The model: the topics of each connection that is registered."""

    @rule(target=registered, user_id=_user_ids)
    def register(self, user_id: str) -> Connection:
        self.made += 1
        connection = make(f"one.{self.made}", user_id)
        self.registry.register(connection)
        self.topics[connection] = set()
        return connection

    @rule(target=gone, connection=consumes(registered))
    def unregister(self, connection: Connection) -> Connection:
        self.registry.unregister(connection)
        del self.topics[connection]
        return connection

    @rule(connection=gone)
    def unregister_again(self, connection: Connection) -> None:
        self.registry.unregister(connection)

    @rule(connection=registered, topic=_topics)
    def subscribe(self, connection: Connection, topic: str) -> None:
        self.registry.subscribe(connection, topic)
        self.topics[connection].add(topic)

    @rule(connection=registered, topic=_topics)
    def unsubscribe(self, connection: Connection, topic: str) -> None:
        self.registry.unsubscribe(connection, topic)
        self.topics[connection].discard(topic)

    @rule(connection=gone, topic=_topics)
    def unsubscribe_what_is_gone(self, connection: Connection, topic: str) -> None:
        self.registry.unsubscribe(connection, topic)

    @invariant()
    def it_holds_what_was_registered(self) -> None:
        registry, expected = self.registry, list(self.topics)
        assert list(registry.all()) == list(registry) == expected
        assert len(registry) == len(expected)
        ids = [f"one.{number + 1}" for number in range(self.made)]
        found = {each: self.registry.by_id(each) for each in ids}
        assert found == {**dict.fromkeys(ids), **{one.id: one for one in expected}}

    @invariant()
    def it_finds_the_connections_of_each_user(self) -> None:
        for user_id in _USERS:
            expected = [one for one in self.topics if one.user_id == user_id]
            assert list(self.registry.by_user(user_id)) == expected
        assert sorted(self.registry.users()) == sorted({one.user_id for one in self.topics})

    @invariant()
    def it_finds_the_subscribers_of_each_topic(self) -> None:
        for topic in _TOPICS:
            expected = {one for one, topics in self.topics.items() if topic in topics}
            assert set(self.registry.by_topic(topic)) == expected
            assert len(self.registry.by_topic(topic)) == len(expected)
            assert self.registry.has_subscriber(topic) is bool(expected)
        assert all(one.topics == topics for one, topics in self.topics.items())


TestTheRegistry = RegistryMachine.TestCase
TestTheRegistry.settings = settings(
    derandomize=True, deadline=None, max_examples=40, stateful_step_count=25
)


async def test_it_is_empty_before_the_first_connection_and_after_the_last() -> None:
    registry = ConnectionRegistry()
    first, second = make("one.1"), make("one.2")
    async with asyncio.timeout(15):
        await registry.wait_empty()
        registry.register(first)
        registry.register(second)
        waiting = asyncio.create_task(registry.wait_empty())
        registry.unregister(first)
        for _ in range(3):
            await asyncio.sleep(0)
        assert not waiting.done()
        registry.unregister(second)
        await waiting


def test_it_can_change_during_an_iteration() -> None:
    """`nuropb_gw` raised RuntimeError: dictionary changed size during iteration."""
    registry = ConnectionRegistry()
    connections = [make(f"one.{number}") for number in range(5)]
    for connection in connections:
        registry.register(connection)
    seen = []
    for connection in registry:
        registry.unregister(connections[3])
        seen.append(connection)
    assert len(seen) == 5
