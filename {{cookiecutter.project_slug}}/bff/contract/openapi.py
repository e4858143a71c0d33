"""Completes the OpenAPI document of FastAPI: names, sign-in, the methods at `/rpc`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from bff.contract.contract import Contract, MethodContract
from bff.contract.examples import example
from bff.contract.frames import requires_params
from bff.contract.schemas import REFERENCE, Schema
from bff.problems import ProblemDetails

_RPC: Final = "/rpc/{service}/{method}"
_BEARER: Final = "token"
_COOKIE: Final = "cookie"

Document = dict[str, Any]


def complete(document: Document, contract: Contract, *, auth_cookie: str) -> None:
    """Complete a document in place.

    Operation ids become the names of the endpoints, where these are unique. The cookie is added as
    another way to sign in. Each declared method gets a path of its own. `ProblemDetails` is added,
    because it is not the response model of any route.
    """
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    problem = ProblemDetails.model_json_schema(ref_template=REFERENCE + "{model}")
    schemas.update(problem.pop("$defs"))
    schemas[ProblemDetails.__name__] = problem
    schemes = components.setdefault("securitySchemes", {})
    schemes[_COOKIE] = {"type": "apiKey", "in": "cookie", "name": auth_cookie}
    _name_operations(document)
    _add_methods(document, contract)
    for _, _, operation in _operations(document):
        if operation.get("security") == [{_BEARER: []}]:
            operation["security"] = [{_BEARER: []}, {_COOKIE: []}]


def _operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    """Path, HTTP method and operation."""
    for path, item in document.get("paths", {}).items():
        for method, operation in item.items():
            if isinstance(operation, dict) and "responses" in operation:
                yield path, method, operation


def _name_operations(document: Document) -> None:
    """FastAPI appends path and method to the name of the endpoint."""
    names = {}
    for path, method, operation in _operations(document):
        suffix = f"{re.sub(r'[^a-zA-Z0-9_]', '_', path)}_{method}"
        generated = operation.get("operationId", "")
        if generated.endswith(suffix):
            names[path, method] = generated.removesuffix(suffix)
    count = Counter(names.values())
    for path, method, operation in _operations(document):
        name = names.get((path, method))
        if name and count[name] == 1:
            operation["operationId"] = name


def _add_methods(document: Document, contract: Contract) -> None:
    """A path for each method that is not a pattern, beside the path for any method."""
    generic = document.get("paths", {}).get(_RPC, {}).get("post")
    if generic is None:
        return
    schemas = document["components"]["schemas"]
    names = _free_names(contract, schemas)
    for name, schema in contract.definitions.items():
        schemas.setdefault(names[name], _renamed(schema, names))
    for method in contract.methods:
        if not method.is_pattern:
            path = f"/rpc/{method.service}/{method.name}"
            document["paths"][path] = {"post": _rpc(method, generic, contract, names)}


def _rpc(
    method: MethodContract, generic: Document, contract: Contract, names: dict[str, str]
) -> Document:
    body: Document = {
        "schema": _renamed(method.params or {"type": "object"}, names),
        "example": example(method.params or {"type": "object"}, contract.definitions),
    }
    result = _renamed(method.result or {}, names)
    of_path = ("service", "method")
    return {
        "tags": [method.service],
        "summary": method.description.partition("\n")[0] or method.full_name,
        "description": _rpc_text(method),
        "operationId": re.sub(r"\W", "_", f"{method.service}_{method.name}"),
        "security": generic.get("security", []),
        "parameters": [one for one in generic["parameters"] if one["name"] not in of_path],
        "requestBody": {
            "required": requires_params(method, contract.definitions),
            "content": {"application/json": body},
        },
        "responses": {
            **generic["responses"],
            "200": {
                "description": "The result",
                "content": {"application/json": {"schema": result}},
            },
        },
    }


def _rpc_text(method: MethodContract) -> str:
    scopes = f"Scopes: {', '.join(method.scopes)}." if method.scopes else ""
    return "\n\n".join(text for text in (method.description, scopes) if text)


def _free_names(contract: Contract, schemas: Document) -> dict[str, str]:
    """The name in this document of each definition: FastAPI may have used it for another model."""
    names: dict[str, str] = {}
    for name, schema in contract.definitions.items():
        taken = name in schemas and _shape(schemas[name]) != _shape(schema)
        names[name] = f"{name}Rpc" if taken else name
    return names


def _shape(schema: Any) -> Any:
    """A schema without its texts, to compare two."""
    if isinstance(schema, dict):
        texts = ("title", "description", "examples", "default")
        return {key: _shape(part) for key, part in schema.items() if key not in texts}
    return [_shape(part) for part in schema] if isinstance(schema, list) else schema


def _renamed(schema: Any, names: dict[str, str]) -> Any:
    """A schema whose references have the names of this document."""
    if isinstance(schema, list):
        return [_renamed(part, names) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made: Schema = {key: _renamed(part, names) for key, part in schema.items()}
    reference = made.get("$ref")
    if isinstance(reference, str):
        made["$ref"] = REFERENCE + names[reference.removeprefix(REFERENCE)]
    return made
