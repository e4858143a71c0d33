"""The OpenAPI document: names, sign-in, the methods at `/rpc`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from bff.errors import Code, Problem
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings
from fastapi import APIRouter
from pydantic import BaseModel, create_model

from tests.engine.echo import create_app
from tests.engine.everything import feature


@pytest.fixture
def document(settings: Settings) -> dict[str, Any]:
    return create_app(settings, feature()).openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def test_every_reference_is_defined_and_every_operation_id_is_unique(
    document: dict[str, Any],
) -> None:
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)))
    assert named <= set(document["components"]["schemas"])
    ids = [operation["operationId"] for _, operation in operations(document)]
    assert len(ids) == len(set(ids))


def test_problems_are_described_as_they_are_sent(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    described = schemas["ProblemDetails"]
    longest = Problem(Code.INTERNAL, retry_after_seconds=1).as_problem_json()
    assert set(described["properties"]) == set(longest)
    assert set(described["required"]) == set(Problem(Code.INTERNAL).as_problem_json())
    assert {"Code", "Outcome"} <= set(schemas)


def test_operation_ids_are_the_names_of_the_endpoints(document: dict[str, Any]) -> None:
    ids = {name: operation["operationId"] for name, operation in operations(document)}
    assert ids["POST /auth/ticket"] == "create_ticket"
    assert ids["GET /admin/broadcasts/{broadcast_id}"] == "read_broadcast"
    assert ids["POST /rpc/orders/place"] == "orders_place"


def test_names_that_two_endpoints_share_keep_their_path(settings: Settings) -> None:
    router = APIRouter()

    @router.get("/a")
    def same() -> None: ...

    router.add_api_route("/b", same)
    ids = dict(operations(create_app(settings, http=[router]).openapi()))
    assert ids["GET /a"]["operationId"] == "same_a_get"
    assert ids["GET /b"]["operationId"] == "same_b_get"


def test_one_signs_in_with_a_token_or_the_cookie(settings: Settings) -> None:
    changed = settings.model_copy(update={"auth_cookie": "session"})
    document = create_app(changed).openapi()
    schemes = document["components"]["securitySchemes"]
    assert schemes["token"]["scheme"] == "bearer"
    assert schemes["cookie"] == {"type": "apiKey", "in": "cookie", "name": "session"}
    security = document["paths"]["/auth/ticket"]["post"]["security"]
    assert security == [{"token": []}, {"cookie": []}]
    assert "security" not in document["paths"]["/health/live"]["get"]


def test_each_method_has_a_path_with_its_parameters_and_its_result(
    document: dict[str, Any],
) -> None:
    place = document["paths"]["/rpc/orders/place"]["post"]
    body = place["requestBody"]
    assert body["required"] is True
    assert body["content"]["application/json"] == {
        "schema": {"$ref": "#/components/schemas/Place"},
        "example": {"item": "tea"},
    }
    result = place["responses"]["200"]["content"]["application/json"]["schema"]
    assert result == {"$ref": "#/components/schemas/Order"}
    assert place["tags"] == ["orders"]
    assert "Scopes: orders." in place["description"]
    assert place["responses"]["504"]
    now = document["paths"]["/rpc/chat/now"]["post"]
    assert now["requestBody"]["required"] is False
    optional = document["paths"]["/rpc/orders/list"]["post"]["requestBody"]
    assert optional["required"] is False, "it has parameters, and needs none of them"
    assert now["summary"] == "Nothing to say."
    assert "/rpc/orders/get_*" not in document["paths"]
    assert "/rpc/{service}/{method}" in document["paths"]


class Line(BaseModel):
    item: str = "tea"
    """What is bought."""
    kind: Literal["a", "b"]
    tags: list[str] = []


_FIELDS: dict[str, Any] = {
    "item": (str, "tea"),
    "kind": (Literal["a", "b"], ...),
    "tags": (list[str], []),
}


def another_line(**changes: Any) -> type[BaseModel]:
    return create_model("Line", **(_FIELDS | changes))


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (Line, "Line"),
        (another_line(), "Line"),
        (another_line(kind=(Literal["a", "c"], ...)), "LineRpc"),
        (another_line(item=(int, 1)), "LineRpc"),
        (another_line(item=(str, ...)), "LineRpc"),
        (create_model("Line"), "LineRpc"),
    ],
    ids=["itself", "the same fields", "another value", "another type", "required", "no fields"],
)
def test_models_with_one_name_share_a_schema_only_if_they_are_alike(
    settings: Settings, other: type[BaseModel], name: str
) -> None:
    class Basket(BaseModel):
        lines: list[other | None]  # type: ignore[valid-type]

    router, realtime = APIRouter(), RealtimeRouter()
    realtime.expose("shop", methods=["buy"], params=Basket, result=int)

    @router.post("/lines")
    def add(line: Line) -> None: ...

    document = create_app(settings, realtime, http=[router]).openapi()
    schemas = document["components"]["schemas"]
    assert {"Line", "LineRpc"} & set(schemas) == {"Line", name}
    reference = {"$ref": f"#/components/schemas/{name}"}
    lines = schemas["Basket"]["properties"]["lines"]
    assert lines["items"] == {"anyOf": [reference, {"type": "null"}]}
    assert set(schemas[name].get("properties", ())) == set(other.model_fields)
    assert set(schemas["Line"]["properties"]) == set(Line.model_fields)


def test_a_result_that_is_not_declared_may_be_anything(document: dict[str, Any]) -> None:
    answer = document["paths"]["/rpc/old/call"]["post"]["responses"]["200"]
    assert answer["content"]["application/json"]["schema"] == {}


def test_asking_twice_gives_the_same_document(settings: Settings) -> None:
    app = create_app(settings, feature())
    first = json.dumps(app.openapi())
    assert json.dumps(app.openapi()) == first
