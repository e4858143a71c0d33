"""The contract of an app: the methods, events and topics that it declares, with their schemas."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, get_args, get_type_hints

from pydantic.json_schema import JsonSchemaMode

from bff.cluster.presence import PRESENCE_CHANGED, TOPIC_PREFIX
from bff.connections.declared_events import EventType
from bff.connections.messages import Close, Drain, Gap, Hello, InboundFrame, Pong
from bff.contract.schemas import Schema, Schemas
from bff.errors import ErrorObject
from bff.realtime.declarations import Method, TopicPolicy
from bff.realtime.exposure import Exposure
from bff.realtime.follow_ups import LATE_REPLY
from bff.realtime.router import RealtimeRouter

INBOUND: Final = get_args(get_args(InboundFrame)[0])
OUTBOUND: Final = (Hello, Pong, Gap, Drain, Close)
_FRAMES: Final[dict[Any, JsonSchemaMode]] = {
    **dict.fromkeys(INBOUND, "validation"),
    **dict.fromkeys((*OUTBOUND, ErrorObject), "serialization"),
}


@dataclass(frozen=True, slots=True)
class MethodContract:
    """A method that browsers may call."""

    service: str
    name: str
    """Or a pattern, with `*` for any characters."""
    description: str
    scopes: list[str]
    params: Schema | None
    """None: it takes no parameters."""
    result: Schema | None
    """None: not declared."""
    params_declared: bool = True

    @property
    def full_name(self) -> str:
        """`<service>.<method>`."""
        return f"{self.service}.{self.name}"

    @property
    def is_pattern(self) -> bool:
        """Whether the name stands for many methods."""
        return "*" in self.name


@dataclass(frozen=True, slots=True)
class EventContract:
    """An event that browsers get without a subscription."""

    name: str
    description: str
    payload: Schema
    stored: bool


@dataclass(frozen=True, slots=True)
class TopicContract:
    """Topics that browsers may subscribe to."""

    pattern: str
    description: str
    scopes: list[str]
    payload: Schema | None
    """None: not declared."""
    stored: bool = True


@dataclass(frozen=True, slots=True)
class Contract:
    """Everything that browsers may call, subscribe to and get."""

    title: str
    version: str
    socket_path: str
    methods: list[MethodContract] = field(default_factory=list)
    events: list[EventContract] = field(default_factory=list)
    topics: list[TopicContract] = field(default_factory=list)
    frames: dict[Any, Schema] = field(default_factory=dict)
    """By class: the frames from browsers, the payloads of frames to browsers, the error object."""
    definitions: dict[str, Schema] = field(default_factory=dict)
    """The schemas of the app's models, by name."""
    frame_definitions: dict[str, Schema] = field(default_factory=dict)
    """The schemas that frames refer to, by `bff.` and name."""

    def undeclared(self) -> Iterator[str]:
        """A line for each part of the contract that is not declared."""
        for method in self.methods:
            missing = [] if method.params_declared else ["params"]
            missing += ["result"] if method.result is None else []
            if missing:
                yield f"method {method.full_name}: {', '.join(missing)}"
        for topic in self.topics:
            if topic.payload is None:
                yield f"topic {topic.pattern}: payload"


def contract_of(
    realtime: RealtimeRouter, *, title: str, version: str, socket_path: str
) -> Contract:
    """Collect what a router declares. `version` is that of the app's API."""
    schemas, frame_schemas = Schemas(), Schemas("bff.")
    frames = {kind: frame_schemas.add(mode, kind) for kind, mode in _FRAMES.items()}
    methods = [
        (
            pair,
            target,
            schemas.add("validation", _params(target)),
            schemas.add("serialization", _result(target)),
        )
        for pair, target in _targets(realtime)
    ]
    events = [(one, schemas.add("serialization", one.adapter)) for one in _events(realtime)]
    topics = [
        (policy, payload, schemas.add("serialization", payload and payload.adapter))
        for policy in realtime.topic_policies.values()
        for payload in (_payload(realtime, policy),)
    ]
    schemas.make()
    frame_schemas.make()
    return Contract(
        title=title,
        version=version,
        socket_path=socket_path,
        methods=[
            _method(pair, target, schemas.of(params), schemas.of(result))
            for pair, target, params, result in methods
        ],
        events=[
            EventContract(one.name, one.description, schemas.of(payload) or {}, one.stored)
            for one, payload in events
        ],
        topics=[
            TopicContract(
                policy.pattern,
                inspect.getdoc(policy.handler.function) or "",
                sorted(policy.scopes),
                schemas.of(schema),
                payload is None or payload.stored,
            )
            for policy, payload, schema in topics
        ],
        frames={kind: frame_schemas.of(number) or {} for kind, number in frames.items()},
        definitions=schemas.definitions,
        frame_definitions=frame_schemas.definitions,
    )


def _targets(realtime: RealtimeRouter) -> Iterator[tuple[tuple[str, str], Method | Exposure]]:
    pairs = {f"{service}.{method}": (service, method) for service, method in realtime.exposed}
    for name, target in realtime.targets.items():
        service, _, method = name.rpartition(".")
        yield pairs.get(name, (service, method)), target
    for pattern in realtime.patterns.values():
        yield (pattern.service, pattern.pattern), pattern.exposure


def _params(target: Method | Exposure) -> Any:
    return target.handler.params if isinstance(target, Method) else target.params


def _result(target: Method | Exposure) -> Any:
    """The type of the result; None if it is not declared."""
    if isinstance(target, Exposure):
        return target.result
    result = get_type_hints(target.handler.function, include_extras=True).get("return")
    return None if result is Any else result


def _method(
    pair: tuple[str, str], target: Method | Exposure, params: Schema | None, result: Schema | None
) -> MethodContract:
    function = target.handler.function if isinstance(target, Method) else None
    return MethodContract(
        *pair,
        description=(inspect.getdoc(function) or "") if function else "",
        scopes=sorted(target.scopes),
        params=params,
        result=result,
        params_declared=function is not None or params is not None,
    )


def _events(realtime: RealtimeRouter) -> Iterator[EventType[Any]]:
    """Those of `emits` that are not the messages of topics, and that of late replies."""
    for one in realtime.events.values():
        if not one.is_pattern and not realtime.has_topic(one.name):
            yield one
    exposures = [
        *realtime.targets.values(),
        *(pattern.exposure for pattern in realtime.patterns.values()),
    ]
    if any(isinstance(one, Exposure) and one.keep_result for one in exposures):
        yield LATE_REPLY


def _payload(realtime: RealtimeRouter, policy: TopicPolicy) -> EventType[Any] | None:
    """What is sent to the topics of a policy, if it is declared."""
    declared = policy.payload or realtime.events.get(policy.pattern)
    if declared is None and policy.pattern.startswith(TOPIC_PREFIX):
        return PRESENCE_CHANGED
    return declared
