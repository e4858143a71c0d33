"""The frames of `bff.v1` as schemas: those of the engine, and those of an app's methods, events and
topics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, get_args

from bff.connections.messages import Hello
from bff.contract.contract import INBOUND, OUTBOUND, Contract, MethodContract
from bff.contract.schemas import Schema, resolved
from bff.errors import ErrorObject

_FROM_BROWSERS: Final = {
    "request": "Call a method. The answer is a `response`.",
    "command": "Call a method without waiting for its result.",
    "cancel": "Cancel a running request.",
    "subscribe": "Subscribe to topics, each from a position or from the newest message.",
    "unsubscribe": "Unsubscribe from topics.",
    "authenticate": "Present a new token of the same user.",
    "ping": "Ask for a `pong`.",
    "pong": "Ignored.",
}
_TO_BROWSERS: Final = {
    "pong": "The answer to `ping`.",
    "gap": "Messages of these streams are lost: fetch again, and continue from these positions.",
    "drain": "The instance is about to close the connection with 4001.",
    "close": "The last frame of an event stream.",
}
_ID: Final = {"type": "string", "description": "`<stream>/<epoch>/<offset>`, if it is stored"}
_TRACE_ID: Final = {
    "type": ["string", "null"],
    "description": "The same in a request and its response",
}
_ANY_TEXT: Final = {"type": "string"}


@dataclass(frozen=True, slots=True)
class FrameSchema:
    """One kind of frame."""

    name: str
    inbound: bool
    """Whether browsers send it."""
    schema: Schema
    description: str


def engine_frames(contract: Contract) -> Iterator[FrameSchema]:
    """The frames that every app has."""
    for kind in INBOUND:
        name = get_args(kind.model_fields["type"].annotation)[0]
        yield FrameSchema(name, True, contract.frames[kind], _FROM_BROWSERS[name])
    text = "The first frame of every connection."
    yield FrameSchema("hello", False, event_frame("hello", _hello(contract)), text)
    positions = _object(positions={"type": "object", "additionalProperties": _ANY_TEXT})
    text = "The server has subscribed the user to a topic."
    yield FrameSchema("subscribed", False, event_frame("subscribed", positions), text)
    topics = _object(topics={"type": "array", "items": _ANY_TEXT})
    text = "The server has ended subscriptions."
    yield FrameSchema("unsubscribed", False, event_frame("unsubscribed", topics), text)
    yield FrameSchema("event", False, event_frame(None, {}), "Any other event.")
    text = "The answer to a request, command, subscribe, unsubscribe or authenticate."
    yield FrameSchema("response", False, response_frame(contract, None), text)
    yield FrameSchema("error", False, _error_frame(contract), "The answer to another frame.")
    for kind in OUTBOUND:
        if kind is not Hello:
            frame = _frame(kind.type, contract.frames[kind])
            yield FrameSchema(kind.type, False, frame, _TO_BROWSERS[kind.type])


def request_frame(contract: Contract, method: MethodContract) -> Schema:
    """The `request` of a method."""
    payload = _object(
        service={"const": method.service},
        method=_ANY_TEXT if method.is_pattern else {"const": method.name},
        params=method.params or {"type": "object"},
        trace_id=_TRACE_ID,
        timeout_ms={"type": ["integer", "null"], "exclusiveMinimum": 0},
    )
    payload["required"] = ["service", "method"]
    if requires_params(method, contract.definitions):
        payload["required"].append("params")
    return _frame("request", payload)


def response_frame(contract: Contract, result: Schema | None) -> Schema:
    """A `response` with this result; it is null beside an error."""
    error: Schema = {"anyOf": [contract.frames[ErrorObject], {"type": "null"}]}
    nullable: Schema = {"anyOf": [result, {"type": "null"}]} if result else {}
    return _frame("response", _object(trace_id=_TRACE_ID, result=nullable, error=error))


def event_frame(topic: str | None, payload: Schema) -> Schema:
    """An `event` of a topic, or of any topic."""
    event = _object(topic=_ANY_TEXT if topic is None else {"const": topic}, event=payload, id=_ID)
    event["required"] = ["topic", "event"]
    return _frame("event", event)


def requires_params(method: MethodContract, definitions: Mapping[str, Schema]) -> bool:
    """Whether a call without parameters is refused."""
    return bool(method.params and resolved(method.params, definitions).get("required"))


def _hello(contract: Contract) -> Schema:
    """The payload of the hello: the fields of its class, and `expires_in`, which it computes."""
    schema = resolved(contract.frames[Hello], contract.frame_definitions)
    expires_in = {"type": "integer", "description": "Seconds until the token expires"}
    return {
        **schema,
        "properties": {**schema["properties"], "expires_in": expires_in},
        "required": [*schema["required"], "expires_in"],
    }


def _error_frame(contract: Contract) -> Schema:
    payload = {"allOf": [contract.frames[ErrorObject], _object(trace_id=_TRACE_ID)]}
    return _object(type={"const": "error"}, payload=payload, error=_ANY_TEXT, description=_ANY_TEXT)


def _frame(type_: str, payload: Schema) -> Schema:
    return _object(type={"const": type_}, payload=payload)


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}
