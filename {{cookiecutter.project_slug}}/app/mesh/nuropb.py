"""NuroPb's wire format, protocol 0.1.1: messages out, messages in, error classes to codes."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Any

import orjson

from app.errors import Code, Outcome, Problem
from app.mesh.events import MeshEvent

PROTOCOL = "0.1.1"
"""A service that meets another number leaves the mesh for good."""
VERSION = "0.1.8"
CONTENT_TYPE = "application/json"
MAX_DESCRIPTION = 1000
"""Characters of a service's own words that are passed on or logged."""

logger = logging.getLogger(__name__)


class Kind(StrEnum):
    """The header `nuropb_type`, and the body's `tag`."""

    REQUEST = "request"
    COMMAND = "command"
    EVENT = "event"
    RESPONSE = "response"


class MalformedMessage(Exception):
    """What arrived is no NuroPb message."""


def headers(kind: Kind, trace_id: str | None) -> dict[str, Any]:
    """All five, as strings: a service that misses one may leave the mesh for good."""
    return {
        "nuropb_protocol": PROTOCOL,
        "nuropb_version": VERSION,
        "nuropb_type": kind.value,
        "trace_id": trace_id or "",
        "encrypted": "",
    }


@dataclass(slots=True)
class Message:
    """One message to send. The transport adds the reply queue of its present connection."""

    kind: Kind
    routing_key: str
    body: bytes
    correlation_id: str
    trace_id: str
    deadline: float
    """When its sender gives up, by the event loop's clock."""
    sent: bool = False
    """Set by the transport as soon as the broker may have it."""

    @property
    def expiration(self) -> str | None:
        """What is left of the sender's time, in ms; events have no expiration."""
        if self.kind is Kind.EVENT:
            return None
        left = self.deadline - asyncio.get_running_loop().time()
        return str(max(1, int(left * 1000)))


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message that arrived; the ids are those of its properties and headers."""

    routing_key: str
    body: bytes
    correlation_id: str
    trace_id: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A request or command as a service reads it."""

    method: str
    params: dict[str, Any]
    context: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a request; the request's context, which it echoes, is left out."""

    result: Any = None
    error: dict[str, Any] | None = None


def call(
    kind: Kind,
    service: str,
    method: str,
    params: dict[str, Any],
    context: dict[str, Any],
    trace_id: str,
    deadline: float,
) -> Message:
    """A request or a command.

    Raises:
        TypeError: the parameters or the context hold something that JSON has not.
    """
    correlation_id = secrets.token_hex(16)
    body = {
        "tag": kind.value,
        "service": service,
        "method": method,
        "params": params,
        "correlation_id": correlation_id,
        "context": context,
        "trace_id": trace_id,
    }
    return Message(kind, service, orjson.dumps(body), correlation_id, trace_id, deadline)


def event(
    topic: str,
    payload: Any,
    context: dict[str, Any],
    target: list[str] | None,
    trace_id: str,
    deadline: float,
) -> Message:
    """An event.

    Raises:
        TypeError: the payload or the context holds something that JSON has not.
    """
    correlation_id = secrets.token_hex(16)
    body = {
        "tag": Kind.EVENT.value,
        "topic": topic,
        "event": payload,
        "context": context,
        "trace_id": trace_id,
        "correlation_id": correlation_id,
        "target": target,
    }
    return Message(Kind.EVENT, topic, orjson.dumps(body), correlation_id, trace_id, deadline)


def response(
    request: Delivery, reply_to: str, result: Any = None, error: dict[str, str] | None = None
) -> bytes:
    """The body of a reply. `context` must be there for NuroPb callers, but need not be echoed."""
    body = {
        "tag": Kind.RESPONSE.value,
        "correlation_id": request.correlation_id,
        "context": {},
        "trace_id": request.trace_id,
        "result": result,
        "error": error,
        "warning": None,
        "reply_to": reply_to,
    }
    return orjson.dumps(body)


def decode_call(body: bytes) -> Call:
    """A request or a command.

    Raises:
        MalformedMessage: it is neither.
        KeyError: it lacks a key that a service needs.
    """
    fields = _decode(body)
    method, params, context = fields["method"], fields["params"], fields["context"]
    if not (isinstance(method, str) and isinstance(params, dict) and isinstance(context, dict)):
        raise MalformedMessage("method, params or context is of the wrong type")
    return Call(method, params, context)


def decode_reply(body: bytes) -> Reply:
    """A reply; whatever is missing is null.

    Raises:
        MalformedMessage: it is none.
    """
    fields = _decode(body)
    error = fields.get("error")
    if error is not None and not isinstance(error, dict):
        error = {"error": "NuropbException", "description": str(error)}
    return Reply(fields.get("result"), error)


def decode_event(delivery: Delivery) -> MeshEvent:
    """An event; only `event` must be there.

    Raises:
        MalformedMessage: it is none.
    """
    fields = _decode(delivery.body)
    if "event" not in fields:
        raise MalformedMessage("an event without `event`")
    context, target = fields.get("context"), fields.get("target")
    origin = delivery.correlation_id or secrets.token_hex(16)
    digest = blake2b(delivery.body, digest_size=8).hexdigest()
    return MeshEvent(
        topic=delivery.routing_key,
        payload=fields["event"],
        context=context if isinstance(context, dict) else {},
        trace_id=delivery.trace_id,
        correlation_id=delivery.correlation_id,
        target=target if isinstance(target, list) else None,
        id=f"{origin}.{digest}",
    )


def _decode(body: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        fields = _decode_python_json(body)
    if not isinstance(fields, dict):
        raise MalformedMessage("not a JSON object")
    return fields


def _decode_python_json(body: bytes) -> Any:
    """What Python's json writes and JSON has not: NaN and the infinities become null."""
    try:
        fields = json.loads(body, parse_constant=lambda _: None)
        orjson.dumps(fields)
    except (ValueError, TypeError, RecursionError) as error:
        raise MalformedMessage(f"not JSON: {type(error).__name__}") from None
    return fields


_DELIBERATE = {
    "NuropbAuthenticationError": Code.UNAUTHENTICATED,
    "NuropbAuthorizationError": Code.FORBIDDEN,
    "NuropbValidationError": Code.INVALID_PARAMS,
    "NuropbDeprecatedError": Code.DEPRECATED,
}
"""Raised only by a service's own code, so that their descriptions are meant for the caller."""

_OTHERS = {
    "NuropbNotDeliveredError": (Code.SERVICE_UNAVAILABLE, Outcome.NOT_SENT),
    "NuropbCallAgainReject": (Code.SERVICE_UNAVAILABLE, Outcome.NOT_SENT),
    "NuropbTimeoutError": (Code.TIMEOUT, Outcome.UNKNOWN),
}


def problem(error: dict[str, Any], *, where: str, trace_id: str) -> Problem:
    """What the `error` of a reply means to a caller; descriptions that leak go to the log."""
    name = str(error.get("error"))
    description = str(error.get("description") or "")[:MAX_DESCRIPTION]
    if name in _DELIBERATE:
        return Problem(_DELIBERATE[name], description or None, outcome=Outcome.DONE)
    if name == "NuropbHandlingError" and description.startswith("Unknown method"):
        return Problem(Code.NOT_FOUND, description, outcome=Outcome.DONE)
    code, outcome = _OTHERS.get(name, (Code.SERVICE_ERROR, Outcome.DONE))
    logger.warning("%s answered %s: %s (trace %s)", where, name, description, trace_id)
    return Problem(code, outcome=outcome)
