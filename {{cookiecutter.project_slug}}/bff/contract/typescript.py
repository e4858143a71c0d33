"""The contract as TypeScript types, for `BffClient<Contract>` of the browser client."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from bff.contract.contract import Contract, MethodContract
from bff.contract.frames import requires_params
from bff.contract.schemas import REFERENCE, Schema

_HEAD: Final = """\
// Written by `bff types`. Do not edit: change the models in Python, then run it again.
"""
_IDENTIFIER: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*")
_SIMPLE: Final = {
    "string": "string",
    "integer": "number",
    "number": "number",
    "boolean": "boolean",
    "null": "null",
}


def typescript(contract: Contract) -> str:
    """The text of `contract.d.ts`: `interface Contract`, and the models that it names."""
    return _Emitter(contract).text()


class _Emitter:
    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._names = type_names(contract.definitions)
        self._used: dict[str, None] = {}
        """The models that were named, in this order."""

    def text(self) -> str:
        body = [*self._interface()]
        models: list[str] = []
        written: set[str] = set()
        while pending := [name for name in self._used if name not in written]:
            for name in pending:
                written.add(name)
                models += self._model(name)
        return "\n".join((_HEAD, *body, *models))

    def _interface(self) -> Iterator[str]:
        contract = self._contract
        yield f"/** {_in_comment(contract.title)}, version {_in_comment(contract.version)} */"
        yield "export interface Contract {"
        yield "  methods: {"
        by_service: dict[str, list[MethodContract]] = {}
        for method in contract.methods:
            by_service.setdefault(method.service, []).append(method)
        for service, methods in by_service.items():
            yield f"    {_key(service)}: {{"
            for method in methods:
                yield from _comment(method.description, "      ")
                yield f"      {_pattern_key(method.name)}: {self._method(method)};"
            yield "    };"
        yield "  };"
        yield "  events: {"
        for event in contract.events:
            yield from _comment(event.description, "    ")
            yield f"    {_key(event.name)}: {self._type(event.payload, 4)};"
        yield "  };"
        yield "  topics: {"
        for topic in contract.topics:
            yield from _comment(topic.description, "    ")
            payload = "unknown" if topic.payload is None else self._type(topic.payload, 4)
            yield f"    {_pattern_key(topic.pattern)}: {payload};"
        yield "  };"
        yield "}"
        yield ""

    def _method(self, method: MethodContract) -> str:
        params = self._params(method)
        result = "unknown" if method.result is None else self._type(method.result, 6)
        return f"{{ params: {params}; result: {result} }}"

    def _params(self, method: MethodContract) -> str:
        """`… | undefined` if a call may omit them."""
        if method.params is None:
            kind = "object" if not method.params_declared else "Record<string, never>"
            return f"{kind} | undefined"
        kind = self._type(method.params, 6)
        required = requires_params(method, self._contract.definitions)
        return kind if required else f"{kind} | undefined"

    def _model(self, name: str) -> Iterator[str]:
        schema = self._contract.definitions[name]
        yield from _comment(schema.get("description", ""), "")
        if _is_interface(schema):
            yield f"export interface {self._names[name]} {self._object(schema, 0)}"
        else:
            yield f"export type {self._names[name]} = {self._type(schema, 0)};"
        yield ""

    def _type(self, schema: Schema, indent: int) -> str:
        if "$ref" in schema:
            name = schema["$ref"].removeprefix(REFERENCE)
            self._used[name] = None
            return self._names[name]
        if "const" in schema:
            return _literal(schema["const"])
        if "enum" in schema:
            return " | ".join(_literal(value) for value in schema["enum"])
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return _union(self._type(part, indent) for part in schema[keyword])
        if "allOf" in schema:
            return " & ".join(f"({self._type(part, indent)})" for part in schema["allOf"])
        kinds = schema.get("type")
        if isinstance(kinds, list):
            return _union(self._type({**schema, "type": kind}, indent) for kind in kinds)
        if kinds == "array":
            return self._array(schema, indent)
        if kinds == "object" or "properties" in schema:
            return self._object(schema, indent)
        return _SIMPLE.get(str(kinds), "unknown")

    def _array(self, schema: Schema, indent: int) -> str:
        if "prefixItems" in schema:
            parts = ", ".join(self._type(part, indent) for part in schema["prefixItems"])
            return f"[{parts}]"
        items = self._type(schema.get("items", {}), indent)
        return f"({items})[]" if _is_compound(items) else f"{items}[]"

    def _object(self, schema: Schema, indent: int) -> str:
        properties: Mapping[str, Schema] = schema.get("properties", {})
        more = schema.get("additionalProperties", "properties" not in schema)
        if not properties:
            values = self._type(more, indent) if isinstance(more, dict) else "unknown"
            return f"Record<string, {values}>" if more else "Record<string, never>"
        space = " " * (indent + 2)
        lines: list[str] = []
        for name, part in properties.items():
            lines += _comment(part.get("description", ""), space)
            optional = "" if name in schema.get("required", ()) else "?"
            lines.append(f"{space}{_key(name)}{optional}: {self._type(part, indent + 2)};")
        if more:
            lines.append(f"{space}[name: string]: unknown;")
        return "\n".join(("{", *lines, " " * indent + "}"))


def _is_interface(schema: Schema) -> bool:
    return bool(schema.get("properties")) and not {"anyOf", "oneOf", "allOf"} & schema.keys()


def type_names(definitions: Iterable[str]) -> dict[str, str]:
    """An identifier for each definition: `Order-Input` becomes `OrderInput`."""
    names: dict[str, str] = {}
    taken = {"Contract", "Record"}
    for definition in definitions:
        words = re.split(r"[^A-Za-z0-9$]+", definition)
        name = base = "".join(word[:1].upper() + word[1:] for word in words) or "Model"
        if name[0].isdigit():
            name = base = f"Model{name}"
        number = 2
        while name in taken:
            name, number = f"{base}{number}", number + 1
        taken.add(name)
        names[definition] = name
    return names


def _union(types: Iterable[str]) -> str:
    """Each type once; `unknown` absorbs all others."""
    parts = list(dict.fromkeys(types))
    return "unknown" if "unknown" in parts else " | ".join(parts)


def _is_compound(text: str) -> bool:
    """Whether a type is a union or an intersection, outside of all brackets."""
    while (inner := re.sub(r"\([^()]*\)|\[[^\[\]]*\]|\{[^{}]*\}|<[^<>]*>", "", text)) != text:
        text = inner
    return " | " in text or " & " in text


def _literal(value: Any) -> str:
    return (
        json.dumps(value, ensure_ascii=False) if not isinstance(value, dict | list) else "unknown"
    )


def _key(name: str) -> str:
    return name if _IDENTIFIER.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def _pattern_key(name: str) -> str:
    """A name, or an index of all names that match: TypeScript's `${string}` is any text."""
    if "*" not in name and "#" not in name.split("."):
        return _key(name)
    text = re.sub(r"[`\\$]", r"\\\g<0>", name)
    words = ("${string}" if word == "#" else word for word in text.split("."))
    template = ".".join(words).replace("*", "${string}")
    return f"[name: `{template}`]"


def _comment(text: str, space: str) -> Iterator[str]:
    lines = _in_comment(text).splitlines()
    if len(lines) == 1:
        yield f"{space}/** {lines[0]} */"
    elif lines:
        yield f"{space}/**"
        yield from (f"{space} * {line}".rstrip() for line in lines)
        yield f"{space} */"


def _in_comment(text: str) -> str:
    return text.strip().replace("*/", "*\\/")
