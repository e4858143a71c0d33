"""Example values for schemas that have none of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bff.contract.schemas import REFERENCE, Schema

_TEXTS: Final = {
    "date-time": "2040-01-01T12:00:00Z",
    "date": "2040-01-01",
    "time": "12:00:00Z",
    "duration": "P1D",
    "uuid": "5b0f7a52-9a55-4f0c-8f0e-0a6c8cf3c0a1",
    "email": "alice@example.com",
    "uri": "https://example.com/",
}


def example(
    schema: Schema, definitions: Mapping[str, Schema], inside: frozenset[str] = frozenset()
) -> Any:
    """A value of the schema: its own example, its default, or the simplest one. A text with a
    pattern may not match it. `inside`: the definitions that this is a part of."""
    if schema.get("examples"):
        return schema["examples"][0]
    for keyword in ("const", "default"):
        if keyword in schema:
            return schema[keyword]
    if "enum" in schema:
        return schema["enum"][0]
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(REFERENCE)
        return None if name in inside else example(definitions[name], definitions, inside | {name})
    for keyword in ("anyOf", "oneOf"):
        if schema.get(keyword):
            return example(schema[keyword][0], definitions, inside)
    if "allOf" in schema:
        parts = [example(part, definitions, inside) for part in schema["allOf"]]
        return {key: part[key] for part in parts if isinstance(part, dict) for key in part}
    return _simplest(schema, definitions, inside)


def _simplest(schema: Schema, definitions: Mapping[str, Schema], inside: frozenset[str]) -> Any:
    match schema.get("type"):
        case "object":
            required = schema.get("required", ())
            return {
                name: example(part, definitions, inside)
                for name, part in schema.get("properties", {}).items()
                if name in required or "examples" in part
            }
        case "array":
            if "prefixItems" in schema:
                return [example(part, definitions, inside) for part in schema["prefixItems"]]
            item = example(schema.get("items", {}), definitions, inside)
            return [item] * schema.get("minItems", 0 if item is None else 1)
        case "string":
            text = _TEXTS.get(schema.get("format", ""), "text")
            return text.ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength")]
        case "integer" | "number":
            return _number(schema)
        case "boolean":
            return True
    return None


def _number(schema: Schema) -> float:
    least = schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
    most = schema.get("maximum", schema.get("exclusiveMaximum", least + 1) - 1)
    number: float = max(least, 1) if max(least, 1) <= most else most
    return number
