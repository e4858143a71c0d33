"""What a new contract breaks for clients that were written against the old one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from bff.contract.schemas import Schema, resolved

Document = Mapping[str, Any]
_LIMITS: Final = {
    "maximum": 1,
    "exclusiveMaximum": 1,
    "maxLength": 1,
    "maxItems": 1,
    "minimum": -1,
    "exclusiveMinimum": -1,
    "minLength": -1,
    "minItems": -1,
}
"""Keywords that limit a value, and the direction in which a limit becomes wider."""


def compare(old: Document, new: Document) -> list[str]:
    """A line for each thing that breaks an old client, of two AsyncAPI or two OpenAPI documents.

    What clients send must still be accepted: no method is gone, no field is newly required, no type
    narrower. What clients receive must still be understood: no event or field is gone, no type
    wider.
    """
    lines = _compare_http(old, new) if "openapi" in old else _compare_socket(old, new)
    return list(dict.fromkeys(lines))


def _compare_socket(old: Document, new: Document) -> Iterator[str]:
    checks = _Schemas(old, new)
    for name, operation in old["operations"].items():
        if name not in new["operations"]:
            yield f"{_title(name, operation)} is gone"
            continue
        sent = operation["action"] == "receive"  # the server receives what clients send
        for old_schema, new_schema in _messages(operation, new["operations"][name], old, new):
            yield from checks.compare(_title(name, operation), old_schema, new_schema, sent=sent)
        replies = operation.get("reply"), new["operations"][name].get("reply")
        if replies[0] and replies[1]:
            for old_schema, new_schema in _messages(replies[0], replies[1], old, new):
                title = _title(name, operation)
                yield from checks.compare(title, old_schema, new_schema, sent=False)
        before, after = (
            set(one.get("x-scopes", ())) for one in (operation, new["operations"][name])
        )
        for scope in sorted(after - before):
            yield f"{_title(name, operation)} requires the scope {scope}"


def _messages(
    old_holder: Document, new_holder: Document, old: Document, new: Document
) -> Iterator[tuple[Schema, Schema]]:
    for before, after in zip(old_holder["messages"], new_holder["messages"], strict=False):
        yield _message(before, old), _message(after, new)


def _message(reference: Document, document: Document) -> Schema:
    name = reference["$ref"].rpartition("/")[2]
    payload: Schema = document["components"]["messages"][name]["payload"]
    return payload


def _title(name: str, operation: Document) -> str:
    for kind in ("event", "topic"):
        if f"x-{kind}" in operation:
            return f"{kind} {operation[f'x-{kind}']}"
    return f"method {name}" if "x-method" in operation else f"frame {name}"


def _compare_http(old: Document, new: Document) -> Iterator[str]:
    checks = _Schemas(old, new)
    for path, item in old["paths"].items():
        for method, operation in item.items():
            title = f"{method.upper()} {path}"
            changed = new["paths"].get(path, {}).get(method)
            if changed is None:
                yield f"{title} is gone"
                continue
            known = {(one["name"], one["in"]) for one in operation.get("parameters", ())}
            for one in changed.get("parameters", ()):
                if one.get("required") and (one["name"], one["in"]) not in known:
                    yield f"{title}: the parameter {one['name']} is newly required"
            before, after = _body(operation.get("requestBody")), _body(changed.get("requestBody"))
            if after is not None and before is None and changed["requestBody"].get("required"):
                yield f"{title}: a body is newly required"
            if before is not None and after is not None:
                yield from checks.compare(f"{title}: body", before, after, sent=True)
            for status, response in operation["responses"].items():
                if not status.startswith("2"):
                    continue
                if status not in changed["responses"]:
                    yield f"{title}: the status {status} is gone"
                    continue
                before, after = _body(response), _body(changed["responses"][status])
                if before is not None and after is not None:
                    yield from checks.compare(f"{title}: response", before, after, sent=False)


def _body(holder: Document | None) -> Schema | None:
    found: Schema | None = (
        (holder or {}).get("content", {}).get("application/json", {}).get("schema")
    )
    return found


class _Schemas:
    def __init__(self, old: Document, new: Document) -> None:
        self._old = old.get("components", {}).get("schemas", {})
        self._new = new.get("components", {}).get("schemas", {})

    def compare(self, title: str, old: Schema, new: Schema, *, sent: bool) -> Iterator[str]:
        """`sent`: clients send it, so the new schema must accept what the old one did. Otherwise
        clients receive it, and know the old one."""
        yield from self._fields(title, "", old, new, sent, frozenset())

    def _fields(
        self, title: str, path: str, old: Schema, new: Schema, sent: bool, seen: frozenset[Any]
    ) -> Iterator[str]:
        pair = (old.get("$ref"), new.get("$ref"))
        if pair != (None, None):
            if pair in seen:
                return
            seen |= {pair}
        old, new = resolved(old, self._old), resolved(new, self._new)
        where = f"{title}: {path or 'the value'}"
        olds, news = _variants(old, self._old), _variants(new, self._new)
        wide, narrow = (news, olds) if sent else (olds, news)
        for missing in sorted(set(narrow) - set(wide)):
            if "any" in wide or _holds(wide, missing):
                continue
            verb = "no longer accepts" if sent else "may now be"
            yield f"{where} {verb} {missing}"
        for kind in olds.keys() & news.keys():
            before, after = olds[kind], news[kind]
            if sent:
                yield from _limits(where, before, after)
            if kind == "object":
                yield from self._objects(title, path, before, after, sent, seen)
            elif kind == "array":
                items = (before.get("items", {}), after.get("items", {}))
                if all(isinstance(one, dict) for one in items):
                    yield from self._fields(title, f"{path}[]", *items, sent, seen)

    def _objects(
        self, title: str, path: str, old: Schema, new: Schema, sent: bool, seen: frozenset[Any]
    ) -> Iterator[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        old_required, new_required = set(old.get("required", ())), set(new.get("required", ()))
        for name in before:
            inner = f"{path}.{name}" if path else name
            if name not in after:
                if not after and new.get("additionalProperties", True) and sent:
                    continue
                yield f"{title}: {inner} is gone"
            else:
                yield from self._fields(title, inner, before[name], after[name], sent, seen)
                if not sent and name in old_required - new_required:
                    yield f"{title}: {inner} may now be absent"
        if sent:
            for name in sorted(new_required - old_required):
                inner = f"{path}.{name}" if path else name
                yield f"{title}: {inner} is newly required"


def _variants(schema: Schema, definitions: Mapping[str, Schema]) -> dict[str, Schema]:
    """The kinds of values that a schema accepts: types, or the literals of an enum as JSON. So null
    is one kind, whether it is a type or a literal."""
    schema = resolved(schema, definitions)
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            found: dict[str, Schema] = {}
            for part in schema[keyword]:
                for kind, variant in _variants(part, definitions).items():
                    found[kind] = _merged(found[kind], variant) if kind in found else variant
            return found
    if "const" in schema:
        return {_literal(schema["const"]): {}}
    if "enum" in schema:
        return {_literal(value): {} for value in schema["enum"]}
    if "allOf" in schema:
        parts = [resolved(part, definitions) for part in schema["allOf"]]
        merged: Schema = {"type": "object", "properties": {}, "required": []}
        for part in parts:
            merged["properties"] |= part.get("properties", {})
            merged["required"] += part.get("required", [])
        return {"object": merged}
    kinds = schema.get("type", "any")
    return dict.fromkeys(kinds if isinstance(kinds, list) else [kinds], schema)


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _holds(wide: Mapping[str, Schema], kind: str) -> bool:
    """Whether a kind of values is part of a wider one: a literal of its type, integers of
    numbers."""
    if kind == "integer":
        return "number" in wide
    try:
        literal = json.loads(kind)
    except ValueError:  # the name of a type
        return False
    match literal:
        case bool():
            return "boolean" in wide
        case int():
            return "integer" in wide or "number" in wide
        case float():
            return "number" in wide
    return isinstance(literal, str) and "string" in wide


def _merged(one: Schema, other: Schema) -> Schema:
    """Two objects of a union: required is what both require."""
    required = set(one.get("required", ())) & set(other.get("required", ()))
    properties = {**one.get("properties", {}), **other.get("properties", {})}
    return {**one, "properties": properties, "required": sorted(required)}


def _limits(where: str, old: Schema, new: Schema) -> Iterator[str]:
    for keyword, wider in _LIMITS.items():
        after = new.get(keyword)
        if isinstance(after, int | float):
            before = old.get(keyword)
            if before is None or (after - before) * wider < 0:
                yield f"{where} is narrower: {keyword} {after:g}"
    if new.get("pattern") and new.get("pattern") != old.get("pattern"):
        yield f"{where} is narrower: it must match {new['pattern']}"
