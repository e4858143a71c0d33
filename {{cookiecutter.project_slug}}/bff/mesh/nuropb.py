"""NuroPb's wire format, protocol 0.1.1: messages out, messages in, error classes to codes."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from hashlib import blake2b
from typing import Any

import orjson

from bff.errors import Code, Outcome, Problem
from bff.mesh.events import MeshEvent
from bff.mesh.messages import Delivery, Kind, MalformedMessage, MeshRequest, Message, Reply

PROTOCOL = "0.1.1"
"""A service that meets another number leaves the mesh for good."""
VERSION = "0.1.8"
CONTENT_TYPE = "application/json"
REPLY_SECONDS = 5
"""What the broker may take to accept a reply."""
MAX_DESCRIPTION = 1000
"""Characters of a service's own words that are passed on or logged."""

logger = logging.getLogger(__name__)


def headers(kind: Kind, trace_id: str | None) -> dict[str, Any]:
    """All five, as strings: a service that misses one may leave the mesh for good."""
    return {
        "nuropb_protocol": PROTOCOL,
        "nuropb_version": VERSION,
        "nuropb_type": kind.value,
        "trace_id": trace_id or "",
        "encrypted": "",
    }


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
    return _message(kind, service, body, correlation_id, trace_id, deadline)


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
    return _message(Kind.EVENT, topic, body, correlation_id, trace_id, deadline)


def response(request: Delivery, result: Any, error: dict[str, Any] | None) -> Message:
    """The reply to a request. `context` must be there for NuroPb callers, but need not be echoed.

    Raises:
        TypeError: the result holds something that JSON has not.
    """
    body = {
        "tag": Kind.RESPONSE.value,
        "correlation_id": request.correlation_id,
        "context": {},
        "trace_id": request.trace_id,
        "result": result,
        "error": error,
        "warning": None,
        "reply_to": request.reply_to,
    }
    return _message(
        Kind.RESPONSE,
        request.reply_to,
        body,
        request.correlation_id,
        request.trace_id or "",
        asyncio.get_running_loop().time() + REPLY_SECONDS,
    )


def _message(
    kind: Kind,
    routing_key: str,
    body: dict[str, Any],
    correlation_id: str,
    trace_id: str,
    deadline: float,
) -> Message:
    text = orjson.dumps(body)
    return Message(
        kind, routing_key, text, correlation_id, trace_id, deadline, headers(kind, trace_id)
    )


def decode_request(body: bytes, delivery: Delivery) -> MeshRequest:
    """The request or command that a service is to carry out. Without parameters it has none.

    Raises:
        MalformedMessage: it is neither.
    """
    fields = _decode(body)
    if delivery.kind not in (Kind.REQUEST, Kind.COMMAND):
        raise MalformedMessage(f"a {delivery.kind or 'message without a type'} is no call")
    method, params, context = fields.get("method"), fields.get("params"), fields.get("context")
    if not isinstance(method, str):
        raise MalformedMessage("a call without a method")
    if not (isinstance(params, dict | None) and isinstance(context, dict | None)):
        raise MalformedMessage("params or context is no object")
    return MeshRequest(
        method, params or {}, context or {}, delivery.trace_id, delivery.correlation_id
    )


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

_CODES = {code.value: code for code in Code}
_OTHERS = {
    "NuropbNotDeliveredError": (Code.SERVICE_UNAVAILABLE, Outcome.NOT_SENT),
    "NuropbCallAgainReject": (Code.SERVICE_UNAVAILABLE, Outcome.NOT_SENT),
    "NuropbTimeoutError": (Code.TIMEOUT, Outcome.UNKNOWN),
}


def problem(error: dict[str, Any], call: Message) -> Problem:
    """What the `error` of a reply means to a caller; descriptions that leak go to the log.

    Our own services give a code as well: then all of it is meant for the caller. That a service
    has not begun is never believed: it may say so of a call of its own.
    """
    name = str(error.get("error"))
    description = str(error.get("description") or "")[:MAX_DESCRIPTION]
    if (code := _CODES.get(str(error.get("code")))) is not None:
        unknown = error.get("outcome") == Outcome.UNKNOWN
        outcome = Outcome.UNKNOWN if unknown else Outcome.DONE
        return Problem(code, description or None, outcome=outcome)
    if name in _DELIBERATE:
        return Problem(_DELIBERATE[name], description or None, outcome=Outcome.DONE)
    if name == "NuropbHandlingError" and description.startswith("Unknown method"):
        return Problem(Code.NOT_FOUND, description, outcome=Outcome.DONE)
    code, outcome = _OTHERS.get(name, (Code.SERVICE_ERROR, Outcome.DONE))
    where = f"{call.routing_key}.{call.method}"
    logger.warning("%s answered %s: %s (trace %s)", where, name, description, call.trace_id)
    return Problem(code, outcome=outcome)
