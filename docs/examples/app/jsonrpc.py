"""JSON-RPC 2.0 over AMQP: a second message format, for services that use it."""

from __future__ import annotations

import logging
import secrets
from typing import Any

import orjson

from bff import Code, Context, MeshEvent, Outcome, Problem
from bff.codec import Delivery, Kind, MalformedMessage, Message, Reply

logger = logging.getLogger(__name__)

_CODES = {-32601: Code.NOT_FOUND, -32602: Code.INVALID_PARAMS}


def call(
    kind: Kind,
    service: str,
    method: str,
    params: dict[str, Any],
    context: Context,
    trace_id: str,
    deadline: float,
) -> Message:
    """A request, or a notification for a command. The context becomes headers, as strings."""
    request_id = secrets.token_hex(16)
    body = {"jsonrpc": "2.0", "method": method, "params": params}
    if kind is Kind.REQUEST:
        body["id"] = request_id
    headers = {name: str(value) for name, value in context.items()}
    return Message(kind, service, orjson.dumps(body), request_id, trace_id, deadline, headers)


def event(
    topic: str,
    payload: Any,
    context: Context,
    target: list[str] | None,
    trace_id: str,
    deadline: float,
) -> Message:
    event_id = secrets.token_hex(16)
    return Message(Kind.EVENT, topic, orjson.dumps(payload), event_id, trace_id, deadline)


def decode_reply(body: bytes) -> Reply:
    fields = _decode(body)
    if not isinstance(fields, dict) or ("result" not in fields and "error" not in fields):
        raise MalformedMessage("no JSON-RPC response")
    return Reply(fields.get("result"), fields.get("error"))


def decode_event(delivery: Delivery) -> MeshEvent:
    payload, event_id = _decode(delivery.body), delivery.correlation_id
    return MeshEvent(delivery.routing_key, payload, {}, None, event_id, None, event_id)


def problem(error: dict[str, Any], call: Message) -> Problem:
    """Map JSON-RPC's own codes. The error text of a service goes to the log only."""
    fields = {"service": call.routing_key, "method": call.method, "trace_id": call.trace_id}
    logger.warning("JSON-RPC error", extra={**fields, "error": str(error)[:1000]})
    return Problem(_CODES.get(error.get("code", 0), Code.SERVICE_ERROR), outcome=Outcome.DONE)


def _decode(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise MalformedMessage("not JSON") from error
