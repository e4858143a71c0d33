"""The contract as an AsyncAPI 3.0 document: https://www.asyncapi.com/docs/reference/specification/v3.0.0"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from bff.connections.close_codes import CloseCode, reconnects
from bff.connections.messages import SUBPROTOCOL
from bff.contract.contract import Contract, MethodContract, TopicContract
from bff.contract.examples import example
from bff.contract.frames import engine_frames, event_frame, request_frame, response_frame
from bff.contract.schemas import Schema, resolved
from bff.docstrings import attribute_docstrings
from bff.errors import Code, Problem

_CHANNEL: Final = {"$ref": "#/channels/socket"}
_CORRELATION: Final = {"location": "$message.payload#/payload/trace_id"}
_NOT_IN_A_KEY: Final = re.compile(r"[^\w.-]")

Document = dict[str, Any]


def asyncapi(contract: Contract) -> Document:
    """The document: one channel, with every frame, method, event and topic."""
    return _Document(contract).make()


class _Document:
    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._definitions = {**contract.frame_definitions, **contract.definitions}
        self._messages: dict[str, Document] = {}
        self._operations: dict[str, Document] = {}

    def make(self) -> Document:
        contract = self._contract
        self._add_engine_frames()
        for method in contract.methods:
            self._add_method(method)
        for event in contract.events:
            schema = event_frame(event.name, event.payload)
            about = {"x-event": event.name, "x-stored": event.stored}
            self._add_sent(f"event.{event.name}", schema, event.description, about)
        for topic in contract.topics:
            self._add_topic(topic)
        return {
            "asyncapi": "3.0.0",
            "info": {
                "title": contract.title,
                "version": contract.version,
                "description": "What browsers call, subscribe to and get over a WebSocket.",
            },
            "defaultContentType": "application/json",
            "channels": {"socket": self._channel()},
            "operations": self._operations,
            "components": {
                "messages": self._messages,
                "schemas": {
                    name: draft_7(_with_codes(schema) if name == "bff.Code" else schema)
                    for name, schema in self._definitions.items()
                },
            },
        }

    def _channel(self) -> Document:
        query: Schema = {
            "type": "object",
            "properties": {
                "ticket": {"type": "string", "description": "From `POST /auth/ticket`"},
                "since": {"type": "string", "description": "Positions in the streams user and all"},
            },
        }
        return {
            "address": self._contract.socket_path,
            "description": f"A WebSocket with the subprotocol {SUBPROTOCOL}.",
            "messages": {
                name: {"$ref": f"#/components/messages/{name}"} for name in self._messages
            },
            "bindings": {"ws": {"method": "GET", "query": query, "bindingVersion": "0.1.0"}},
            "x-close-codes": [
                {
                    "code": int(code),
                    "name": code.name,
                    "description": text.removesuffix(" Never sent."),
                    "reconnects": reconnects(code),
                }
                for name, text in attribute_docstrings(CloseCode).items()
                for code in (CloseCode[name],)
            ],
            "x-error-codes": [
                {
                    "code": code.value,
                    "status": code.status,
                    "description": Problem(code).description,
                }
                for code in Code
            ],
        }

    def _add_engine_frames(self) -> None:
        for frame in engine_frames(self._contract):
            name = f"{frame.name}.in" if frame.inbound else frame.name
            self._message(name, frame.schema, frame.description)
            action = "receive" if frame.inbound else "send"
            self._operation(name, action, [name], frame.description)

    def _add_method(self, method: MethodContract) -> None:
        name = _key(method.full_name, self._operations)
        about: Document = {
            "x-method": {"service": method.service, "method": method.name},
            "x-scopes": method.scopes,
        }
        request, response = f"{name}.request", f"{name}.response"
        self._message(request, request_frame(self._contract, method), method.description)
        self._message(response, response_frame(self._contract, method.result), "")
        self._operation(name, "receive", [request], method.description, about)
        self._operations[name]["reply"] = {"channel": _CHANNEL, "messages": [_in_channel(response)]}

    def _add_topic(self, topic: TopicContract) -> None:
        is_pattern = not {"*", "#"}.isdisjoint(topic.pattern.split("."))
        schema = event_frame(None if is_pattern else topic.pattern, topic.payload or {})
        about = {"x-topic": topic.pattern, "x-scopes": topic.scopes, "x-stored": topic.stored}
        self._add_sent(f"topic.{topic.pattern}", schema, topic.description, about)

    def _add_sent(self, name: str, schema: Schema, description: str, about: Document) -> None:
        name = _key(name, self._operations)
        self._message(name, schema, description)
        self._operation(name, "send", [name], description, about)

    def _message(self, name: str, schema: Schema, description: str) -> None:
        made: Document = {"name": name, "payload": draft_7(schema)}
        if description:
            made["description"] = description
        if self._has_trace_id(schema):
            made["correlationId"] = _CORRELATION
        shown = example(schema, self._definitions)
        made["examples"] = [{"name": "example", "payload": shown}]
        self._messages[name] = made

    def _has_trace_id(self, frame: Schema) -> bool:
        frame = resolved(frame, self._definitions)
        payload = frame.get("properties", {}).get("payload", {})
        parts = [resolved(part, self._definitions) for part in payload.get("allOf", [payload])]
        return any("trace_id" in part.get("properties", {}) for part in parts)

    def _operation(
        self,
        name: str,
        action: str,
        messages: Iterable[str],
        text: str,
        about: Document | None = None,
    ) -> None:
        self._operations[name] = {
            "action": action,
            "channel": _CHANNEL,
            **({"description": text} if text else {}),
            "messages": [_in_channel(message) for message in messages],
            **(about or {}),
        }


def _in_channel(message: str) -> Document:
    return {"$ref": f"#/channels/socket/messages/{message}"}


def _key(name: str, taken: Mapping[str, Any]) -> str:
    """A key for a name, which may hold characters that keys of a document cannot."""
    key = base = _NOT_IN_A_KEY.sub("_", name)
    number = 2
    while key in taken:
        key, number = f"{base}-{number}", number + 1
    return key


def _with_codes(schema: Schema) -> Schema:
    """The error codes with their meaning."""
    lines = [f"* `{code.value}` ({code.status}): {Problem(code).description}" for code in Code]
    return {**schema, "description": "\n".join(lines)}


def draft_7(schema: Any) -> Any:
    """A schema in the draft that AsyncAPI has, from pydantic's draft 2020-12."""
    if isinstance(schema, list):
        return [draft_7(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made: Document = {}
    for keyword, value in schema.items():
        if keyword in ("properties", "patternProperties"):
            made[keyword] = {name: draft_7(part) for name, part in value.items()}
        elif keyword in ("const", "default", "enum", "examples", "required"):
            made[keyword] = value
        elif keyword == "discriminator":
            made[keyword] = value["propertyName"]
        elif keyword == "prefixItems":
            made["items"], made["additionalItems"] = draft_7(value), False
        elif keyword != "items" or "prefixItems" not in schema:
            made[keyword] = draft_7(value)
    return made
