"""What a `RealtimeRouter` collects beside exposures: methods, topic policies, event handlers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bff.connections.declared_events import EventType
from bff.names import topic_matches
from bff.realtime.handlers import Handler


class Topic(str):
    """The topic that a browser subscribes to."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Method:
    """A method for browsers that this BFF answers itself."""

    scopes: frozenset[str]
    handler: Handler


@dataclass(frozen=True, slots=True)
class ServedMethod:
    """A method of this BFF that other services of the mesh may call."""

    handler: Handler
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class TopicPolicy:
    """Who may subscribe to the topics of a pattern."""

    pattern: str
    scopes: frozenset[str]
    handler: Handler
    payload: EventType[Any] | None = None
    """What is sent to these topics, if it is declared."""

    def matches(self, topic: str) -> bool:
        """Whether the policy applies to the topic."""
        return topic_matches(self.pattern.split("."), topic.split("."))


@dataclass(frozen=True, slots=True)
class DeclaredEventHandler:
    """An event handler as a feature declares it; `join_mesh` adds its dependencies."""

    name: str
    topic: str
    handler: Handler
