"""JSON schemas of the models of a contract, in one set of definitions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue

from bff.docstrings import attribute_docstrings

Schema = dict[str, Any]
REFERENCE: Final = "#/components/schemas/"
"""Begins every reference to a definition."""


class _Generator(GenerateJsonSchema):
    """Without generated titles. What a model sends is required, even if it has a default. The
    docstring below a field is its description."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def field_is_required(self, field: Any, total: bool) -> bool:
        if self.mode == "serialization" and field["type"] != "typed-dict-field":
            return "serialization_exclude_if" not in field
        return super().field_is_required(field, total)

    def model_schema(self, schema: Any) -> JsonSchemaValue:
        return self._described(super().model_schema(schema), schema["cls"])

    def dataclass_schema(self, schema: Any) -> JsonSchemaValue:
        return self._described(super().dataclass_schema(schema), schema["cls"])

    def _described(self, made: JsonSchemaValue, kind: type) -> JsonSchemaValue:
        made.pop("title", None)
        texts: dict[str, str] = {}
        for base in reversed(kind.__mro__):
            texts |= attribute_docstrings(base)
        fields = getattr(kind, "model_fields", {})
        for name, text in texts.items():
            field = fields.get(name)
            for alias in (name, *_aliases(field)):
                described = made.get("properties", {}).get(alias)
                if described is not None:
                    described.setdefault("description", text)
        return made


def _aliases(field: Any) -> list[str]:
    names = (getattr(field, f"{kind}alias", None) for kind in ("", "validation_", "serialization_"))
    return [name for name in names if isinstance(name, str)]


class Schemas:
    """Collects types, then makes the schemas of all of them at once, so that two models with the
    same name get two names."""

    def __init__(self, prefix: str = "") -> None:
        """`prefix` begins the name of each definition."""
        self._prefix = prefix
        self._types: list[tuple[int, JsonSchemaMode, TypeAdapter[Any]]] = []
        self._made: dict[int, Schema] = {}
        self.definitions: dict[str, Schema] = {}
        """The schemas that others refer to, by name. Filled by `make`."""

    def add(self, mode: JsonSchemaMode, type_: Any) -> int | None:
        """Add a type, or its `TypeAdapter`. Returns its number for `of`; None for None, and for a
        type that has no JSON schema. `mode`: `validation` is what is accepted, `serialization`
        what is sent."""
        if type_ is None:
            return None
        try:
            adapter = type_ if isinstance(type_, TypeAdapter) else TypeAdapter(type_)
            adapter.json_schema(mode=mode)
        except Exception:  # of an app's type: pydantic has several errors for what has no schema
            return None
        self._types.append((len(self._types), mode, adapter))
        return len(self._types) - 1

    def make(self) -> None:
        """Make the schemas of everything that was added."""
        made, rest = TypeAdapter.json_schemas(
            self._types,
            ref_template=f"{REFERENCE}{self._prefix}{{model}}",
            schema_generator=_Generator,
        )
        self._made = {number: schema for (number, _), schema in made.items()}
        definitions = rest.get("$defs", {})
        self.definitions = {f"{self._prefix}{name}": one for name, one in definitions.items()}

    def of(self, number: int | None) -> Schema | None:
        """The schema of a type that was added."""
        return None if number is None else self._made[number]


def resolved(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """The schema that a chain of references leads to."""
    while "$ref" in schema:
        schema = definitions[schema["$ref"].removeprefix(REFERENCE)]
    return schema
