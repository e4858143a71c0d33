"""The frames of the browser protocol `bff.v1` (`docs/protocol.md`)."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Final, Literal, Protocol, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from bff.connections.frames import encode
from bff.connections.positions import Position
from bff.errors import Code, Problem, describe
from bff.names import Name, TopicName, TraceId

SUBPROTOCOL = "bff.v1"


# Frames from the browser


class _Payload(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Call(_Payload):
    """The payload of `request` and `command`: a call of a method."""

    service: Name
    method: Name
    params: dict[str, Any] = {}
    trace_id: TraceId | None = None
    timeout_ms: Annotated[int, Field(gt=0)] | None = None


class Cancel(_Payload):
    trace_id: TraceId


class Subscription(_Payload):
    topic: TopicName
    since: str | None = None
    """The position to start from: the `id` of the last message seen."""

    @property
    def position(self) -> Position | None:
        """The parsed `since`; None to start with the next message."""
        return Position.parse(self.since)[1] if self.since else None

    @model_validator(mode="after")
    def _since_is_in_this_topic(self) -> Self:
        if self.since and Position.parse(self.since)[0] != f"topic:{self.topic}":
            raise ValueError("since is a position in another stream: send the topic's own")
        return self


class Subscribe(_Payload):
    topics: Annotated[tuple[Subscription, ...], Field(min_length=1, max_length=128)]
    trace_id: TraceId | None = None


class Unsubscribe(_Payload):
    topics: Annotated[tuple[TopicName, ...], Field(min_length=1, max_length=128)]
    trace_id: TraceId | None = None


class Authenticate(_Payload):
    token: Annotated[str, Field(min_length=1, max_length=16_384)]
    trace_id: TraceId | None = None


class Ping(_Payload):
    trace_id: TraceId | None = None


class RequestFrame(_Payload):
    type: Literal["request"]
    payload: Call


class CommandFrame(_Payload):
    type: Literal["command"]
    payload: Call


class CancelFrame(_Payload):
    type: Literal["cancel"]
    payload: Cancel


class SubscribeFrame(_Payload):
    type: Literal["subscribe"]
    payload: Subscribe


class UnsubscribeFrame(_Payload):
    type: Literal["unsubscribe"]
    payload: Unsubscribe


class AuthenticateFrame(_Payload):
    type: Literal["authenticate"]
    payload: Authenticate


class PingFrame(_Payload):
    type: Literal["ping"]
    payload: Ping = Ping()


class PongFrame(_Payload):
    type: Literal["pong"]
    payload: Ping = Ping()


InboundFrame = Annotated[
    RequestFrame
    | CommandFrame
    | CancelFrame
    | SubscribeFrame
    | UnsubscribeFrame
    | AuthenticateFrame
    | PingFrame
    | PongFrame,
    Field(discriminator="type"),
]
_INBOUND: TypeAdapter[InboundFrame] = TypeAdapter(InboundFrame)
FRAME_TYPES: Final = frozenset(
    get_args(kind.model_fields["type"].annotation)[0]
    for kind in get_args(get_args(InboundFrame)[0])
)
"""The `type` of every valid frame from a browser."""


def parse(value: Any) -> InboundFrame:
    """Validate decoded JSON as a frame.

    Raises:
        Problem: `invalid_params`; the description names the wrong field.
    """
    try:
        return _INBOUND.validate_python(value)
    except ValidationError as error:
        raise Problem(Code.INVALID_PARAMS, describe(error, skip=1)) from None


# Frames to the browser


class Message(Protocol):
    """A message that can be sent to one connection."""

    def encode(self) -> bytes:
        """The JSON text in UTF-8."""


class _Outbound(ABC):
    __slots__ = ()
    type: ClassVar[str]

    @abstractmethod
    def payload(self) -> dict[str, Any]: ...

    def encode(self) -> bytes:
        return encode({"type": self.type, "payload": self.payload()})


@dataclass(frozen=True, slots=True)
class Event(_Outbound):
    """An event. When it is stored in a stream, Redis adds its `id`: see `encode_start`."""

    type: ClassVar[str] = "event"
    topic: str
    event: Any

    def payload(self) -> dict[str, Any]:
        return {"topic": self.topic, "event": self.event}

    def encode(self) -> bytes:
        """
        Raises:
            Problem: `invalid_params`, the event is not JSON.
        """
        try:
            return _Outbound.encode(self)
        except TypeError as error:
            raise Problem(Code.INVALID_PARAMS, "The event is not JSON") from error

    def encode_start(self, stream: str) -> bytes:
        """The JSON text up to the epoch in the id. Only Redis knows the rest: the script `send`
        appends `<epoch>/<offset>"}}`."""
        return b'%s,"id":%s/' % (self.encode()[:-2], encode(stream)[:-1])


def seconds_until(unix_time: int) -> int:
    """For clients, whose own clock may be wrong: the seconds that are left, never negative."""
    return max(0, unix_time - int(time.time()))


@dataclass(frozen=True, slots=True)
class Hello(_Outbound):
    """The first frame of every connection."""

    type: ClassVar[str] = "event"
    connection_id: Annotated[str, Field(serialization_alias="session_id")]
    """In the frame it is `session_id`, as of the gateway `nuropb_gw`."""
    user_id: str
    username: str
    expires_at: int
    """When the token expires: Unix time in seconds."""
    ping_interval: float
    """In seconds."""
    positions: dict[str, str]
    """The id of the newest message of each stream: the position to start from."""
    recovered: dict[str, bool] = field(default_factory=dict)
    """By stream that `since` named: whether all missed messages follow."""
    topics: Annotated[list[str] | None, Field(exclude_if=lambda topics: topics is None)] = None
    """In development: the patterns of all topics, so that the client can name a listener whose
    topic matches none."""

    def payload(self) -> dict[str, Any]:
        event = {
            "session_id": self.connection_id,
            "user_id": self.user_id,
            "username": self.username,
            "expires_at": self.expires_at,
            "expires_in": seconds_until(self.expires_at),
            "ping_interval": self.ping_interval,
            "positions": self.positions,
            "recovered": self.recovered,
        }
        if self.topics is not None:
            event["topics"] = self.topics
        return {"topic": "hello", "event": event}


@dataclass(frozen=True, slots=True)
class Response(_Outbound):
    """The answer to `request`, `command`, `subscribe`, `unsubscribe` and `authenticate`."""

    type: ClassVar[str] = "response"
    trace_id: str | None
    result: Any = None
    error: dict[str, Any] | None = None

    def payload(self) -> dict[str, Any]:
        return {"trace_id": self.trace_id, "result": self.result, "error": self.error}


@dataclass(frozen=True, slots=True)
class ErrorMessage:
    """The answer to an invalid frame, and to a `cancel` that matches no request.

    `error` and `description` are repeated at the top level, where `nuropb_gw` had them.
    """

    problem: Problem
    trace_id: str | None = None

    def encode(self) -> bytes:
        error = self.problem.as_error()
        return encode(
            {
                "type": "error",
                "payload": {**error, "trace_id": self.trace_id},
                "error": error["error"],
                "description": error["description"],
            }
        )


@dataclass(frozen=True, slots=True)
class Pong(_Outbound):
    type: ClassVar[str] = "pong"
    trace_id: str | None = None

    def payload(self) -> dict[str, Any]:
        return {"trace_id": self.trace_id}


@dataclass(frozen=True, slots=True)
class Gap(_Outbound):
    """Messages were lost: the client reloads its data and continues from these positions."""

    type: ClassVar[str] = "gap"
    streams: dict[str, str]

    def payload(self) -> dict[str, Any]:
        return {"streams": self.streams}


@dataclass(frozen=True, slots=True)
class Drain(_Outbound):
    """The instance is about to close this connection with 4001."""

    type: ClassVar[str] = "drain"
    reconnect_after_ms: int

    def payload(self) -> dict[str, Any]:
        return {"reconnect_after_ms": self.reconnect_after_ms}


@dataclass(frozen=True, slots=True)
class Close(_Outbound):
    """The last event of an event stream; a WebSocket has a close frame instead."""

    type: ClassVar[str] = "close"
    code: int
    reason: str = ""

    def payload(self) -> dict[str, Any]:
        return {"code": self.code, "reason": self.reason}
