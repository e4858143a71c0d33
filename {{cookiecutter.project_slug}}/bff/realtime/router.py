"""What one feature offers: methods and topics to sockets, methods and rules to the mesh."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from itertools import product
from typing import Any, TypeVar

from pydantic import BaseModel

from bff.auth.caller import Caller
from bff.connections.messages import Call
from bff.mesh.events import MeshEvent, topic_matches
from bff.mesh.messages import MeshRequest
from bff.realtime.exposure import Exposure, Pattern, check_names
from bff.realtime.handlers import Handler, check_resources, handler
from bff.realtime.injection import INJECTABLE

Function = TypeVar("Function", bound=Callable[..., Awaitable[Any]])


class Topic(str):
    """The topic that a browser wants to subscribe to."""

    __slots__ = ()


_METHOD_MAY_ASK = INJECTABLE | {Caller}
_SERVED_MAY_ASK = INJECTABLE | {MeshRequest}
_TOPIC_MAY_ASK = INJECTABLE | {Topic, Caller}
_EVENT_MAY_ASK = INJECTABLE | {MeshEvent}


@dataclass(frozen=True, slots=True)
class Method:
    """A method answered here."""

    scopes: frozenset[str]
    handler: Handler


@dataclass(frozen=True, slots=True)
class ServedMethod:
    """A method that other services of the mesh may call here."""

    handler: Handler
    encrypted: bool = False


@dataclass(frozen=True, slots=True)
class TopicPolicy:
    """Who may subscribe to the topics of a pattern."""

    pattern: str
    scopes: frozenset[str]
    handler: Handler

    def matches(self, topic: str) -> bool:
        """Whether it decides about this topic."""
        return topic_matches(self.pattern.split("."), topic.split("."))


@dataclass(frozen=True, slots=True)
class HandledEvent:
    """What happens at a mesh event."""

    name: str
    topic: str
    handler: Handler


@dataclass(slots=True)
class RealtimeRouter:
    """Collects what a feature offers. Nothing is offered that is not named: deny by default."""

    targets: dict[str, Exposure | Method] = field(default_factory=dict)
    """By `<service>.<method>`, as browsers call it."""
    exposed: set[tuple[str, str]] = field(default_factory=set)
    """Service and method of what goes to the mesh: both may hold dots."""
    patterns: dict[str, Pattern] = field(default_factory=dict)
    """By `<service>.<pattern>`, in the order of their declaration."""
    served: dict[str, ServedMethod] = field(default_factory=dict)
    """By method, as services call it on the service `APP_NAME`."""
    rules: dict[str, HandledEvent] = field(default_factory=dict)
    topics: dict[str, TopicPolicy] = field(default_factory=dict)
    """By pattern. The first that matches decides."""

    def expose(
        self,
        *services: str,
        methods: Collection[str],
        scopes: Collection[str] = (),
        check: Callable[..., Awaitable[bool]] | None = None,
        params: type[BaseModel] | None = None,
        timeout: float | None = None,
        encrypted: bool = False,
        cancel_method: str | None = None,
        keep_result: bool = False,
    ) -> None:
        """Let browsers whose token has all of `scopes` call these methods of mesh services.

        In a method's name `*` stands for any characters: `get_*`. A full name goes before
        patterns, and of these the first that was declared counts.

        * `check` is asked for each call, and only True lets it pass. It may ask for what a method
          may ask for, and for the `Call`.
        * `params` is the model of the parameters. What it does not know is left out.
        * `timeout` in seconds replaces `REQUEST_TIMEOUT_SECONDS`; a browser cannot extend it.
        * `encrypted`: only the service can read the call.
        * `cancel_method` of the service is told the `trace_id` of a call that was cancelled or
          whose socket has closed: if it can be reached, and without a token.
        * `keep_result`: an answer that comes when nobody waits any more goes to the user as an
          event `result`, with the request's `trace_id`.

        Raises:
            ValueError: a name that cannot be, or that is offered already.
            TypeError: `check` asks for what it cannot have.
        """
        checking = None
        if check is not None:
            checking = handler(check, _METHOD_MAY_ASK | {Call}, params=params is not None)
            if checking.params not in (None, params):
                raise TypeError(f"the check asks for another model than {params}")
        exposure = Exposure(
            frozenset(scopes), checking, params, timeout, encrypted, cancel_method, keep_result
        )
        for service, method in product(services, methods):
            check_names(service, method)
            if "*" in method:
                self._add_pattern(f"{service}.{method}", Pattern.of(service, method, exposure))
            else:
                self._offer(f"{service}.{method}", exposure)
                self.exposed.add((service, method))

    def find(self, service: str, method: str) -> Exposure | Method | None:
        """What a browser reaches under that name, if anything."""
        target = self.targets.get(f"{service}.{method}")
        if isinstance(target, Exposure) and (service, method) not in self.exposed:
            target = None  # the same text, parted at another dot
        if target is None:
            for pattern in self.patterns.values():
                if pattern.matches(service, method):
                    return pattern.exposure
        return target

    def method(self, name: str, *, scopes: Collection[str] = ()) -> Callable[[Function], Function]:
        """Answer `<service>.<method>` here, for browsers whose token has all of `scopes`.

        The function may ask by type for a Pydantic model (the parameters), `Caller`, what is in
        `INJECTABLE` and `Annotated[..., Depends(...)]`.
        """
        if "." not in name:
            raise ValueError(f"{name!r}: a method is named <service>.<method>")

        def declare(function: Function) -> Function:
            bound = handler(function, _METHOD_MAY_ASK, params=True)
            self._offer(name, Method(frozenset(scopes), bound))
            return function

        return declare

    def mesh_method(self, name: str, *, encrypted: bool = False) -> Callable[[Function], Function]:
        """Answer this method for other services, which call it on the service `APP_NAME`.

        The mesh is trusted: there are no scopes. With `encrypted` plain calls are refused, and
        `MESH_PRIVATE_KEY_FILE` is needed. The function may ask for a Pydantic model (the
        parameters), `MeshRequest`, what is in `INJECTABLE` and `Annotated[..., Depends(...)]`.
        """

        def declare(function: Function) -> Function:
            bound = handler(function, _SERVED_MAY_ASK, params=True)
            self._add_served(name, ServedMethod(bound, encrypted))
            return function

        return declare

    def topic(
        self, pattern: str, *, scopes: Collection[str] = ()
    ) -> Callable[[Function], Function]:
        """Let browsers subscribe to topics of this pattern, if the token has all of `scopes` and
        the function returns True: `*` is one word between dots, `#` any number of them.

        The function may ask for `Topic`, `Caller`, what is in `INJECTABLE` and
        `Annotated[..., Depends(...)]`.
        """

        def declare(function: Function) -> Function:
            bound = handler(function, _TOPIC_MAY_ASK, params=False)
            self._decide(TopicPolicy(pattern, frozenset(scopes), bound))
            return function

        return declare

    def event(self, topic: str, *, name: str) -> Callable[[Function], Function]:
        """Handle mesh events whose topic matches: `*` is one word, `#` any number of them.

        Each handler has a durable queue named after it, `<APP_NAME>.events.<name>.v1`, so `name`
        must stay as it is from release to release. The function may ask for `MeshEvent`, what is
        in `INJECTABLE` and `Annotated[..., Depends(...)]`.
        """

        def declare(function: Function) -> Function:
            bound = handler(function, _EVENT_MAY_ASK, params=False)
            self._add_rule(HandledEvent(name, topic, bound))
            return function

        return declare

    def check_injection(self, offered: Collection[type]) -> None:
        """
        Raises:
            TypeError: a handler asks for a type that is not among these.
        """
        exposures = [pattern.exposure for pattern in self.patterns.values()]
        for target in (*self.targets.values(), *exposures):
            check = target.check if isinstance(target, Exposure) else target.handler
            if check is not None:
                check_resources(check, offered)
        handlers = [served.handler for served in self.served.values()]
        handlers += [topic.handler for topic in self.topics.values()]
        handlers += [rule.handler for rule in self.rules.values()]
        for bound in handlers:
            check_resources(bound, offered)

    def offers(self, topic: str) -> bool:
        """Whether a rule decides about a topic."""
        return any(rule.matches(topic) for rule in self.topics.values())

    def include(self, other: RealtimeRouter) -> None:
        """Take in what another router offers.

        Raises:
            ValueError: both offer the same method or topics, or have a rule of the same name.
        """
        for name, target in other.targets.items():
            self._offer(name, target)
        self.exposed |= other.exposed
        for name, pattern in other.patterns.items():
            self._add_pattern(name, pattern)
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

    def _add_pattern(self, name: str, pattern: Pattern) -> None:
        if name in self.patterns:
            raise ValueError(f"{name!r} is offered twice")
        self.patterns[name] = pattern

    def _add_served(self, name: str, served: ServedMethod) -> None:
        if name in self.served:
            raise ValueError(f"{name!r} is served twice")
        self.served[name] = served

    def _add_rule(self, rule: HandledEvent) -> None:
        if rule.name in self.rules:
            raise ValueError(f"two event rules are called {rule.name!r}")
        self.rules[rule.name] = rule

    def _decide(self, rule: TopicPolicy) -> None:
        if rule.pattern in self.topics:
            raise ValueError(f"topics {rule.pattern!r} are decided about twice")
        self.topics[rule.pattern] = rule
