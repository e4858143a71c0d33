"""NuroPb's message format, protocol 0.1.1: encodes, decodes, and maps its errors to codes."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from typing import Any

import orjson

from bff.errors import Code, Outcome, Problem
from bff.mesh.events import MeshEvent
from bff.mesh.messages import Delivery, Kind, MalformedMessage, MeshRequest, Message, Reply

PROTOCOL = "0.1.1"
"""A NuroPb service that receives another number shuts down."""
VERSION = "0.1.8"
CONTENT_TYPE = "application/json"
REPLY_SECONDS = 5
"""The time limit for publishing a reply."""
MAX_DESCRIPTION = 1000
"""Characters of a service's error description that are passed on or logged."""

logger = logging.getLogger(__name__)


def headers(kind: Kind, trace_id: str) -> dict[str, Any]:
    """The AMQP headers of a message, all strings. A NuroPb service that misses one of the five may
    shut down."""
    return {
        "nuropb_protocol": PROTOCOL,
        "nuropb_version": VERSION,
        "nuropb_type": kind.value,
        "trace_id": trace_id,
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
    """Encode a request or a command.

    Raises:
        TypeError: the parameters or the context are not JSON.
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
    """Encode an event.

    Raises:
        TypeError: the payload or the context is not JSON.
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
    """Encode the reply to a request.

    NuroPb callers require the field `context`, but not that it echoes the request's.

    Raises:
        TypeError: the result is not JSON.
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
    """Decode a request or a command. Missing parameters are an empty object.

    Raises:
        MalformedMessage: the body is neither.
    """
    fields = _decode(body)
    if delivery.kind not in (Kind.REQUEST, Kind.COMMAND):
        raise MalformedMessage(f"not a request or command: {delivery.kind or 'no nuropb_type'}")
    method, params, context = fields.get("method"), fields.get("params"), fields.get("context")
    if not isinstance(method, str):
        raise MalformedMessage("a call without a method")
    if not (isinstance(params, dict | None) and isinstance(context, dict | None)):
        raise MalformedMessage("params or context is not an object")
    return MeshRequest(
        method=method,
        params=params or {},
        context=context or {},
        trace_id=delivery.trace_id,
        correlation_id=delivery.correlation_id,
        id=delivery.id,
    )


def decode_reply(body: bytes) -> Reply:
    """Decode a reply. Missing fields are null.

    Raises:
        MalformedMessage: the body is not a JSON object.
    """
    fields = _decode(body)
    error = fields.get("error")
    if error is not None and not isinstance(error, dict):
        error = {"error": "NuropbException", "description": str(error)}
    return Reply(fields.get("result"), error)


def decode_event(delivery: Delivery) -> MeshEvent:
    """Decode an event. Only the field `event` is required.

    Raises:
        MalformedMessage: the body is not an event.
    """
    fields = _decode(delivery.body)
    if "event" not in fields:
        raise MalformedMessage("an event without `event`")
    context, target = fields.get("context"), fields.get("target")
    return MeshEvent(
        topic=delivery.routing_key,
        payload=fields["event"],
        context=context if isinstance(context, dict) else {},
        trace_id=delivery.trace_id,
        correlation_id=delivery.correlation_id,
        target=target if isinstance(target, list) else None,
        id=delivery.id,
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
    """Python's `json` writes NaN and the infinities, which are not JSON. They become null."""
    try:
        fields = json.loads(body, parse_constant=lambda _: None)
        orjson.dumps(fields)
    except (ValueError, TypeError, RecursionError) as error:
        raise MalformedMessage(f"not JSON: {type(error).__name__}") from None
    return fields


_PUBLIC_ERRORS = {
    "NuropbAuthenticationError": Code.UNAUTHENTICATED,
    "NuropbAuthorizationError": Code.FORBIDDEN,
    "NuropbValidationError": Code.INVALID_PARAMS,
    "NuropbDeprecatedError": Code.DEPRECATED,
}
"""Raised only by the code of a service: their descriptions are meant for the caller."""

_CODES = {code.value: code for code in Code}
_OTHER_ERRORS = {
    "NuropbNotDeliveredError": (Code.SERVICE_UNAVAILABLE, Outcome.UNKNOWN),
    "NuropbCallAgainReject": (Code.SERVICE_UNAVAILABLE, Outcome.UNKNOWN),
    "NuropbTimeoutError": (Code.TIMEOUT, Outcome.UNKNOWN),
}


def problem(error: dict[str, Any], call: Message) -> Problem:
    """Convert the `error` of a reply. Descriptions that may hold internals go to the log only.

    A `Service` of this engine sends a `code` too: then everything is meant for the caller. The
    outcome of a reply is `unknown` or `done`, never `not_sent`: the service has begun its work, and
    its error may come from a call that it made itself.
    """
    name = str(error.get("error"))
    description = str(error.get("description") or "")[:MAX_DESCRIPTION]
    if (code := _CODES.get(str(error.get("code")))) is not None:
        unknown = error.get("outcome") == Outcome.UNKNOWN
        outcome = Outcome.UNKNOWN if unknown else Outcome.DONE
        return Problem(code, description, outcome=outcome)
    if name in _PUBLIC_ERRORS:
        return Problem(_PUBLIC_ERRORS[name], description, outcome=Outcome.DONE)
    if name == "NuropbHandlingError" and description.startswith("Unknown method"):
        return Problem(Code.NOT_FOUND, description, outcome=Outcome.DONE)
    code, outcome = _OTHER_ERRORS.get(name, (Code.SERVICE_ERROR, Outcome.DONE))
    logger.warning(
        "service returned an error",
        extra={
            "service": call.routing_key,
            "method": call.method,
            "error": name,
            "description": description,
            "trace_id": call.trace_id,
        },
    )
    return Problem(code, outcome=outcome)
