"""`RealtimeRouter`: the methods, topics and event handlers that a feature declares."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from itertools import product
from typing import Any, TypeVar

from pydantic import BaseModel

from bff.auth.access_token import AccessToken
from bff.auth.caller import Caller
from bff.connections.declared_events import EventType
from bff.connections.messages import Call
from bff.mesh.events import MeshEvent
from bff.mesh.messages import MeshRequest
from bff.names import check_lists
from bff.realtime.declarations import (
    DeclaredEventHandler,
    Method,
    ServedMethod,
    Topic,
    TopicPolicy,
)
from bff.realtime.exposure import Exposure, Pattern, check_names
from bff.realtime.handlers import check_resources, handler
from bff.realtime.injection import INJECTABLE

Function = TypeVar("Function", bound=Callable[..., Awaitable[Any]])
P = TypeVar("P")


_METHOD_INJECTABLE = INJECTABLE | {Caller, AccessToken}
_SERVED_METHOD_INJECTABLE = INJECTABLE | {MeshRequest}
_TOPIC_INJECTABLE = INJECTABLE | {Topic, Caller, AccessToken}
_EVENT_INJECTABLE = INJECTABLE | {MeshEvent}


@dataclass(slots=True)
class RealtimeRouter:
    """Collects what a feature declares. Browsers reach nothing that is not declared."""

    targets: dict[str, Exposure | Method] = field(default_factory=dict)
    """By `<service>.<method>`, as browsers call it. Without patterns."""
    exposed: set[tuple[str, str]] = field(default_factory=set)
    """The pairs of service and method behind the exposures in `targets`: both may hold dots."""
    patterns: dict[str, Pattern] = field(default_factory=dict)
    """By `<service>.<pattern>`, in the order of declaration."""
    served_methods: dict[str, ServedMethod] = field(default_factory=dict)
    """By name, as services call it on the service `APP_NAME`."""
    event_handlers: dict[str, DeclaredEventHandler] = field(default_factory=dict)
    """By name."""
    topic_policies: dict[str, TopicPolicy] = field(default_factory=dict)
    """By pattern, in the order of declaration. The first that matches a topic applies."""
    events: dict[str, EventType[Any]] = field(default_factory=dict)
    """The events of `emits`, by name."""

    def emits(
        self, name: str, payload: type[P], *, stored: bool = True, description: str = ""
    ) -> EventType[P]:
        """Declare an event that this feature sends: `messenger.to_user(user, paid(invoice))`.

        `payload` is a Pydantic model, or any type that Pydantic knows. With `stored=False` only
        connected clients get the event, and it takes no place in a stream: for what is worthless a
        moment later, such as typing or a cursor. A name with `*` (one word between dots) or `#`
        (any number of words) is for the messages of many topics:
        `messenger.to_topic("rooms.kitchen", room_message(message))`.

        Raises:
            ValueError: it is not an event name, or was declared before.
        """
        declared = EventType(name, payload, stored=stored, description=description)
        self._add_event(declared)
        return declared

    def expose(
        self,
        *services: str,
        methods: Collection[str],
        scopes: Collection[str] = (),
        check: Callable[..., Awaitable[bool]] | None = None,
        params: type[BaseModel] | None = None,
        result: Any = None,
        timeout: float | None = None,
        encrypted: bool = False,
        cancel_method: str | None = None,
        keep_result: bool = False,
    ) -> None:
        """Let browsers whose token has all of `scopes` call these methods of mesh services.

        In a method's name `*` matches any characters: `get_*`. An exact name takes precedence
        over patterns; of several patterns that match, the first declared applies.

        * `check` runs before each call, which is forbidden unless `check` returns True. It takes
          the same parameters as a method, and the `Call`.
        * `params` is the model of the parameters. Fields that it does not have are dropped.
        * `result` is the type of the result, for the contract. Results are not checked.
        * `timeout`, in seconds, replaces `REQUEST_TIMEOUT_SECONDS`; browsers cannot extend it.
        * `encrypted`: only the service can read the call.
        * `cancel_method` of the service is called with the `trace_id` of a call that was
          cancelled, or whose connection closed: at most once, and without a token.
        * `keep_result`: a reply that comes after the timeout, or after the connection closed, is
          sent to the user as an event `result` with the request's `trace_id`.

        Raises:
            ValueError: a name is not valid, or was declared before.
            TypeError: `check` has a parameter that cannot be resolved; or `methods` or `scopes` is
                a text in place of a list.
        """
        check_lists(methods=methods, scopes=scopes)
        checking = None
        if check is not None:
            checking = handler(check, _METHOD_INJECTABLE | {Call}, params=params is not None)
            if checking.params not in (None, params):
                raise TypeError(f"the check takes another model than {params}")
        exposure = Exposure(
            frozenset(scopes),
            checking,
            params,
            result,
            timeout,
            encrypted,
            cancel_method,
            keep_result,
        )
        for service, method in product(services, methods):
            check_names(service, method)
            if "*" in method:
                self._add_pattern(f"{service}.{method}", Pattern.of(service, method, exposure))
            else:
                self._add_target(f"{service}.{method}", exposure)
                self.exposed.add((service, method))

    def find(self, service: str, method: str) -> Exposure | Method | None:
        """The method or exposure that a browser reaches under that name; None if there is none."""
        target = self.targets.get(f"{service}.{method}")
        if isinstance(target, Exposure) and (service, method) not in self.exposed:
            target = None  # the same text, split at another dot
        if target is None:
            for pattern in self.patterns.values():
                if pattern.matches(service, method):
                    return pattern.exposure
        return target

    def method(self, name: str, *, scopes: Collection[str] = ()) -> Callable[[Function], Function]:
        """Answer `<service>.<method>` here, for browsers whose token has all of `scopes`.

        The function may take, by type: a Pydantic model (the parameters of the call), `Caller`,
        `AccessToken`, the types in `INJECTABLE` and `Annotated[..., Depends(...)]`.

        Raises:
            ValueError: the name is not `<service>.<method>`, or was declared before.
            TypeError: a parameter cannot be resolved, or `scopes` is a text in place of a list.
        """
        check_lists(scopes=scopes)
        if "." not in name:
            raise ValueError(f"{name!r} is not <service>.<method>")

        def declare(function: Function) -> Function:
            bound = handler(function, _METHOD_INJECTABLE, params=True)
            self._add_target(name, Method(frozenset(scopes), bound))
            return function

        return declare

    def mesh_method(self, name: str, *, encrypted: bool = False) -> Callable[[Function], Function]:
        """Answer this method for other services, which call it on the service `APP_NAME`.

        The mesh is trusted: there are no scopes. With `encrypted`, calls that are not encrypted
        are refused, and `MESH_PRIVATE_KEY_FILE` is required. The function may take, by type: a
        Pydantic model (the parameters of the call), `MeshRequest`, the types in `INJECTABLE` and
        `Annotated[..., Depends(...)]`.

        Raises:
            ValueError: the name was declared before.
            TypeError: a parameter cannot be resolved.
        """

        def declare(function: Function) -> Function:
            bound = handler(function, _SERVED_METHOD_INJECTABLE, params=True)
            self._add_served_method(name, ServedMethod(bound, encrypted))
            return function

        return declare

    def topic(
        self, pattern: str, *, scopes: Collection[str] = (), payload: Any = None
    ) -> Callable[[Function], Function]:
        """Declare who may subscribe to the topics of a pattern, and what is sent to them.

        `payload` is the type of the messages: a Pydantic model, or any type that Pydantic knows. A
        browser may subscribe if its token has all of `scopes` and the function returns True. In
        the pattern `*` matches one word between dots, `#` any number of words. The function may
        take, by type: `Topic`, `Caller`, `AccessToken`, the types in `INJECTABLE` and
        `Annotated[..., Depends(...)]`.

        Raises:
            ValueError: the pattern was declared before.
            TypeError: a parameter cannot be resolved, or `scopes` is a text in place of a list.
        """
        check_lists(scopes=scopes)

        def declare(function: Function) -> Function:
            bound = handler(function, _TOPIC_INJECTABLE, params=False)
            messages = None if payload is None else EventType(pattern, payload, stored=True)
            self._add_topic_policy(TopicPolicy(pattern, frozenset(scopes), bound, messages))
            return function

        return declare

    def event(self, topic: str, *, name: str) -> Callable[[Function], Function]:
        """Handle mesh events whose topic matches: `*` matches one word, `#` any number of words.

        Each handler has a durable queue, `<APP_NAME>.events.<name>.v1`: keep `name` the same from
        release to release. The function may take, by type: `MeshEvent`, the types in `INJECTABLE`
        and `Annotated[..., Depends(...)]`.

        Raises:
            ValueError: the name was declared before.
            TypeError: a parameter cannot be resolved.
        """

        def declare(function: Function) -> Function:
            bound = handler(function, _EVENT_INJECTABLE, params=False)
            self._add_event_handler(DeclaredEventHandler(name, topic, bound))
            return function

        return declare

    def check_injection(self, injectable: Collection[type]) -> None:
        """
        Raises:
            TypeError: a handler has a parameter of a type that is not among these.
        """
        exposures = [pattern.exposure for pattern in self.patterns.values()]
        for target in (*self.targets.values(), *exposures):
            check = target.check if isinstance(target, Exposure) else target.handler
            if check is not None:
                check_resources(check, injectable)
        handlers = [method.handler for method in self.served_methods.values()]
        handlers += [policy.handler for policy in self.topic_policies.values()]
        handlers += [declared.handler for declared in self.event_handlers.values()]
        for bound in handlers:
            check_resources(bound, injectable)

    def declared_events(self) -> list[EventType[Any]]:
        """What `emits` declares, and the payloads of topics that it does not."""
        of_topics = (policy.payload for policy in self.topic_policies.values())
        return [
            *self.events.values(),
            *(one for one in of_topics if one is not None and one.name not in self.events),
        ]

    def has_topic(self, topic: str) -> bool:
        """Whether a policy matches the topic."""
        return any(policy.matches(topic) for policy in self.topic_policies.values())

    def include(self, other: RealtimeRouter) -> None:
        """Add everything that another router declares.

        Raises:
            ValueError: both declare the same method, topic pattern, event or event handler name.
        """
        for name, target in other.targets.items():
            self._add_target(name, target)
        self.exposed |= other.exposed
        for name, pattern in other.patterns.items():
            self._add_pattern(name, pattern)
        for name, method in other.served_methods.items():
            self._add_served_method(name, method)
        for policy in other.topic_policies.values():
            self._add_topic_policy(policy)
        for declared in other.event_handlers.values():
            self._add_event_handler(declared)
        for event in other.events.values():
            self._add_event(event)

    def _add_target(self, name: str, target: Exposure | Method) -> None:
        if name in self.targets:
            raise ValueError(f"method {name!r} is declared twice")
        self.targets[name] = target

    def _add_pattern(self, name: str, pattern: Pattern) -> None:
        if name in self.patterns:
            raise ValueError(f"pattern {name!r} is exposed twice")
        self.patterns[name] = pattern

    def _add_served_method(self, name: str, method: ServedMethod) -> None:
        if name in self.served_methods:
            raise ValueError(f"mesh method {name!r} is declared twice")
        self.served_methods[name] = method

    def _add_event_handler(self, declared: DeclaredEventHandler) -> None:
        if declared.name in self.event_handlers:
            raise ValueError(f"two event handlers are named {declared.name!r}: rename one")
        self.event_handlers[declared.name] = declared

    def _add_event(self, declared: EventType[Any]) -> None:
        if declared.name in self.events:
            raise ValueError(f"event {declared.name!r} is declared twice")
        self.events[declared.name] = declared

    def _add_topic_policy(self, policy: TopicPolicy) -> None:
        if policy.pattern in self.topic_policies:
            raise ValueError(f"topic pattern {policy.pattern!r} is declared twice")
        self.topic_policies[policy.pattern] = policy
