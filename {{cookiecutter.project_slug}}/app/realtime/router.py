"""What one feature offers: methods and topics to sockets, methods and rules to the mesh."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any, TypeVar

from app.auth.caller import Caller
from app.cluster.messenger import Messenger
from app.mesh.client import MeshClient
from app.mesh.events import MeshEvent, topic_matches
from app.mesh.messages import MeshRequest
from app.realtime.handlers import Handler, handler

Function = TypeVar("Function", bound=Callable[..., Awaitable[Any]])


class Topic(str):
    """The topic that a browser wants to subscribe to."""

    __slots__ = ()


_METHOD_MAY_ASK = frozenset({Caller, Messenger, MeshClient})
_SERVED_MAY_ASK = frozenset({MeshRequest, Messenger, MeshClient})
_TOPIC_MAY_ASK = frozenset({Topic, Caller, Messenger, MeshClient})
_EVENT_MAY_ASK = frozenset({MeshEvent, Messenger, MeshClient})


@dataclass(frozen=True, slots=True)
class Exposure:
    """A mesh method that browsers may call."""

    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Method:
    """A method answered here."""

    scopes: frozenset[str]
    handler: Handler


@dataclass(frozen=True, slots=True)
class Served:
    """A method that other services of the mesh may call here."""

    handler: Handler
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class TopicRule:
    """Who may subscribe to the topics of a pattern."""

    pattern: str
    scopes: frozenset[str]
    handler: Handler

    def matches(self, topic: str) -> bool:
        """Whether it decides about this topic."""
        return topic_matches(self.pattern.split("."), topic.split("."))


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens at a mesh event."""

    name: str
    topic: str
    handler: Handler


@dataclass(slots=True)
class RealtimeRouter:
    """Collects what a feature offers. Nothing is offered that is not named: deny by default."""

    targets: dict[str, Exposure | Method] = field(default_factory=dict)
    """By `<service>.<method>`, as browsers call it."""
    served: dict[str, Served] = field(default_factory=dict)
    """By method, as services call it on the service `APP_NAME`."""
    rules: dict[str, Rule] = field(default_factory=dict)
    topics: dict[str, TopicRule] = field(default_factory=dict)
    """By pattern. The first that matches decides."""

    def expose(
        self, service: str, *, methods: Collection[str], scopes: Collection[str] = ()
    ) -> None:
        """Let browsers whose token has all of `scopes` call these methods of a mesh service."""
        for method in methods:
            self._offer(f"{service}.{method}", Exposure(frozenset(scopes)))

    def method(self, name: str, *, scopes: Collection[str] = ()) -> Callable[[Function], Function]:
        """Answer `<service>.<method>` here, for browsers whose token has all of `scopes`.

        The function may ask for a Pydantic model (the parameters), `Caller`, `Messenger`,
        `MeshClient` and `Annotated[..., Depends(...)]`, by type.
        """
        if "." not in name:
            raise ValueError(f"{name!r}: a method is named <service>.<method>")

        def declare(function: Function) -> Function:
            bound = handler(function, _METHOD_MAY_ASK, params=True)
            self._offer(name, Method(frozenset(scopes), bound))
            return function

        return declare

    def serve(self, name: str, *, encrypted: bool = False) -> Callable[[Function], Function]:
        """Answer this method for other services, which call it on the service `APP_NAME`.

        The mesh is trusted: there are no scopes. With `encrypted` plain calls are refused, and
        `MESH_PRIVATE_KEY_FILE` is needed. The function may ask for a Pydantic model (the
        parameters), `MeshRequest`, `Messenger`, `MeshClient` and `Annotated[..., Depends(...)]`.
        """

        def declare(function: Function) -> Function:
            bound = handler(function, _SERVED_MAY_ASK, params=True)
            self._add_served(name, Served(bound, encrypted))
            return function

        return declare

    def topic(
        self, pattern: str, *, scopes: Collection[str] = ()
    ) -> Callable[[Function], Function]:
        """Let browsers subscribe to topics of this pattern, if the token has all of `scopes` and
        the function returns True: `*` is one word between dots, `#` any number of them.

        The function may ask for `Topic`, `Caller`, `Messenger`, `MeshClient` and
        `Annotated[..., Depends(...)]`, by type.
        """

        def declare(function: Function) -> Function:
            bound = handler(function, _TOPIC_MAY_ASK, params=False)
            self._decide(TopicRule(pattern, frozenset(scopes), bound))
            return function

        return declare

    def event(self, topic: str, *, name: str | None = None) -> Callable[[Function], Function]:
        """Handle mesh events whose topic matches: `*` is one word, `#` any number of them.

        Each rule has a durable queue named after it, so `name` (by default the function's) must
        stay as it is from release to release. The function may ask for `MeshEvent`,
        `Messenger`, `MeshClient` and `Annotated[..., Depends(...)]`.
        """

        def declare(function: Function) -> Function:
            bound = handler(function, _EVENT_MAY_ASK, params=False)
            self._add_rule(Rule(name or function.__name__, topic, bound))
            return function

        return declare

    def include(self, other: RealtimeRouter) -> None:
        """Take in what another router offers.

        Raises:
            ValueError: both offer the same method or topics, or have a rule of the same name.
        """
        for name, target in other.targets.items():
            self._offer(name, target)
        for name, served in other.served.items():
            self._add_served(name, served)
        for topic_rule in other.topics.values():
            self._decide(topic_rule)
        for rule in other.rules.values():
            self._add_rule(rule)

    def _offer(self, name: str, target: Exposure | Method) -> None:
        if name in self.targets:
            raise ValueError(f"{name!r} is offered twice")
        self.targets[name] = target

    def _add_served(self, name: str, served: Served) -> None:
        if name in self.served:
            raise ValueError(f"{name!r} is served twice")
        self.served[name] = served

    def _add_rule(self, rule: Rule) -> None:
        if rule.name in self.rules:
            raise ValueError(f"two event rules are called {rule.name!r}")
        self.rules[rule.name] = rule

    def _decide(self, rule: TopicRule) -> None:
        if rule.pattern in self.topics:
            raise ValueError(f"topics {rule.pattern!r} are decided about twice")
        self.topics[rule.pattern] = rule
