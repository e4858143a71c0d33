"""The types of the page: comments, names, and what is not in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from bff.contract.contract import (
    Contract,
    EventContract,
    MethodContract,
    TopicContract,
    contract_of,
)
from bff.contract.schemas import REFERENCE, Schema
from bff.contract.typescript import type_names, typescript
from bff.realtime.router import RealtimeRouter
from pydantic import BaseModel


@pytest.fixture
def text(contract: Contract) -> str:
    return typescript(contract)


def test_docstrings_are_comments_and_cannot_end_them(text: str) -> None:
    assert "/**\n * An order.\n *\n * Ends a comment: *\\/\n */\nexport interface Order" in text
    assert "  /** The number *\\/ of the order. */\n  orderId: number;" in text
    assert "      /**\n       * Nothing to say.\n       *\n       * In two paragraphs.\n" in text
    assert "    /** An order has changed. */" in text


def test_models_with_one_name_in_two_modules_and_a_generic_model_get_names() -> None:
    first = type("Item", (BaseModel,), {"__annotations__": {"a": int}, "__module__": "one"})
    second = type("Item", (BaseModel,), {"__annotations__": {"b": str}, "__module__": "two"})
    realtime = RealtimeRouter()
    realtime.expose("s", methods=["m"], params=first, result=second)
    made = typescript(contract_of(realtime, title="t", version="1", socket_path="/ws"))
    names = re.findall(r"export interface (\w+)", made)
    assert len(set(names)) == len(names) == 3


def test_only_models_of_the_app_are_in_it(text: str) -> None:
    assert "RequestFrame" not in text
    assert "Hello" not in text


def test_the_types_of_a_feature_that_declares_one_of_everything(text: str) -> None:
    """`contract.d.ts` is what a developer would read; write `text` to it after a change."""
    assert text == Path(__file__).with_name("contract.d.ts").read_text(encoding="utf-8")


INTEGER, TEXT = {"type": "integer"}, {"type": "string"}
TYPES: list[tuple[Schema, str]] = [
    ({}, "unknown"),
    ({"type": "null"}, "null"),
    ({"type": ["integer", "null"]}, "number | null"),
    ({"const": None}, "null"),
    ({"const": "é"}, '"é"'),
    ({"const": {"a": 1}}, "unknown"),
    ({"enum": ["a", 1, True]}, '"a" | 1 | true'),
    ({"oneOf": [INTEGER, TEXT, {"type": "number"}]}, "number | string"),
    ({"anyOf": [INTEGER, {}]}, "unknown"),
    ({"allOf": [INTEGER, TEXT]}, "(number) & (string)"),
    ({"type": "array"}, "unknown[]"),
    ({"type": "array", "items": TEXT}, "string[]"),
    ({"type": "array", "items": {"anyOf": [INTEGER, TEXT]}}, "(number | string)[]"),
    ({"type": "array", "items": {"allOf": [INTEGER, TEXT]}}, "((number) & (string))[]"),
    (
        {"type": "array", "items": {"type": "array", "items": {"enum": [1, 2]}}},
        "(1 | 2)[][]",
    ),
    ({"type": "array", "prefixItems": [INTEGER, {"enum": [1, 2]}]}, "[number, 1 | 2]"),
    ({"type": "object"}, "Record<string, unknown>"),
    ({"type": "object", "additionalProperties": TEXT}, "Record<string, string>"),
    ({"type": "object", "additionalProperties": False}, "Record<string, never>"),
    ({"type": "object", "properties": {}}, "Record<string, never>"),
    ({"properties": {"a": INTEGER}}, "{\n      a?: number;\n    }"),
    (
        {"properties": {"a b": INTEGER}, "required": ["a b"], "additionalProperties": True},
        '{\n      "a b": number;\n      [name: string]: unknown;\n    }',
    ),
    (
        {"properties": {"a": {"properties": {"b": INTEGER}}}, "additionalProperties": False},
        "{\n      a?: {\n        b?: number;\n      };\n    }",
    ),
    ({"$ref": f"{REFERENCE}a.Order-Input"}, "AOrderInput"),
]


@pytest.mark.parametrize(("schema", "expected"), TYPES)
def test_each_schema_is_a_type(schema: Schema, expected: str) -> None:
    definitions: dict[str, Schema] = {"a.Order-Input": {"type": "string"}}
    event = EventContract("made", "", schema, stored=True)
    text = typescript(Contract("t", "1", "/ws", events=[event], definitions=definitions))
    assert f"  events: {{\n    made: {expected};\n  }};\n" in text
    assert ("export type AOrderInput = string;\n" in text) is ("$ref" in schema)


def test_names_are_keys_and_models_have_identifiers_that_nothing_else_has() -> None:
    keys = {
        "plain_1$": "plain_1$",
        "1st": '"1st"',
        "un-do": '"un-do"',
        "é": '"é"',
        "a.b": '"a.b"',
        "a#b": '"a#b"',
        "get_*": "[name: `get_${string}`]",
        "rooms.#": "[name: `rooms.${string}`]",
        "#": "[name: `${string}`]",
        "a`b\\$.*": "[name: `a\\`b\\\\\\$.${string}`]",
    }
    topics = [TopicContract(name, "", [], INTEGER) for name in keys]
    lines = typescript(Contract("t", "1", "/ws", topics=topics)).splitlines()
    begin = lines.index("  topics: {") + 1
    assert lines[begin : begin + len(keys)] == [f"    {key}: number;" for key in keys.values()]
    names = ["Order", "a.order", "Contract", "Record", "2d", "-", "a_b-c", "a_b_c", "ABC"]
    assert [*type_names(names).values()] == [
        *("Order", "AOrder", "Contract2", "Record2", "Model2d", "Model", "ABC", "ABC2", "ABC3"),
    ]
    fields: Schema = {"properties": {"a": INTEGER}}
    both: Schema = {**fields, "anyOf": [fields, TEXT], "description": "Why"}
    definitions: dict[str, Any] = {"Both": both, "Unused": INTEGER}
    method = MethodContract("s", "m", "", [], fields, {"$ref": f"{REFERENCE}Both"})
    text = typescript(Contract("t", "1", "/ws", methods=[method], definitions=definitions))
    assert "      m: { params: {\n        a?: number;\n      } | undefined; result: Both };" in text
    assert "\n/** Why */\nexport type Both = {\n  a?: number;\n} | string;\n" in text
    assert "Unused" not in text
