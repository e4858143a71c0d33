"""What a new contract breaks for old clients."""

from __future__ import annotations

import copy
from typing import Annotated, Any, Literal

import pytest
from bff.contract.asyncapi import asyncapi
from bff.contract.compare import compare
from bff.contract.contract import Contract, contract_of
from bff.realtime.router import RealtimeRouter
from pydantic import BaseModel, Field, create_model


def document(params: Any = None, result: Any = None, event: Any = None) -> dict[str, Any]:
    """An app with one method and one event, whose fields are these."""
    realtime = RealtimeRouter()
    made = {
        name: create_model(name, **fields) if isinstance(fields, dict) else fields
        for name, fields in (("Params", params), ("Result", result), ("Event", event))
    }
    realtime.expose("shop", methods=["buy"], params=made["Params"], result=made["Result"])
    if event is not None:
        realtime.emits("bought", made["Event"])
    return asyncapi(contract_of(realtime, title="t", version="1", socket_path="/ws"))


class Inner(BaseModel):
    a: int
    b: str = ""


class NewInner(BaseModel):
    a: int


Fields = dict[str, Any]
SENT: list[tuple[Fields, Fields, list[str]]] = [
    ({"a": (int, ...)}, {"a": (int, ...), "b": (int, ...)}, ["b is newly required"]),
    ({"a": (int, ...)}, {"a": (int, ...), "b": (int, 1)}, []),
    ({"a": (int, ...), "b": (int, 1)}, {"a": (int, ...)}, ["b is gone"]),
    ({"a": (int, 1), "z": (int, ...)}, {"a": (int, ...), "z": (int, ...)}, ["a is newly required"]),
    ({"a": (float, ...)}, {"a": (int, ...)}, ["a no longer accepts number"]),
    ({"a": (int, ...)}, {"a": (float, ...)}, []),
    ({"a": (int | None, None)}, {"a": (int, 1)}, ["a no longer accepts null"]),
    ({"a": (str, ...)}, {"a": (Literal["x", "y"], ...)}, ["a no longer accepts string"]),
    ({"a": (Literal["x", "y"], ...)}, {"a": (Literal["x"], ...)}, ['a no longer accepts "y"']),
    ({"a": (Literal["x"], ...)}, {"a": (str, ...)}, []),
    (
        {"a": (int, ...)},
        {"a": (Annotated[int, Field(lt=9)], ...)},
        ["a is narrower: exclusiveMaximum 9"],
    ),
    ({"a": (Annotated[str, Field(max_length=9)], ...)}, {"a": (str, ...)}, []),
    ({"a": (list[int], ...)}, {"a": (list[str], ...)}, ["a[] no longer accepts integer"]),
    ({"a": (Inner, ...)}, {"a": (NewInner, ...)}, ["a.b is gone"]),
    ({"a": (Any, ...)}, {"a": (Any, ...)}, []),
    ({"a": (Literal[-1, 2], ...)}, {"a": (int, ...)}, []),
    ({"a": (Literal[True], ...)}, {"a": (bool, ...)}, []),
    ({"a": (Literal["x", None], ...)}, {"a": (str | None, ...)}, []),
    ({"a": (bool, ...)}, {"a": (Literal[True], ...)}, ["a no longer accepts boolean"]),
    (
        {"a": (Literal[-1, True], ...)},
        {"a": (str, ...)},
        ["a no longer accepts -1", "a no longer accepts true"],
    ),
]
RECEIVED: list[tuple[Fields, Fields, list[str]]] = [
    ({"a": (int, ...)}, {"a": (int, ...), "b": (int, ...)}, []),
    ({"a": (int, ...), "b": (int, ...)}, {"a": (int, ...)}, ["b is gone"]),
    ({"a": (int, ...)}, {"a": (float, ...)}, ["a may now be number"]),
    ({"a": (float, ...)}, {"a": (int, ...)}, []),
    ({"a": (int, ...)}, {"a": (int | None, ...)}, ["a may now be null"]),
    ({"a": (Literal["x"], ...)}, {"a": (Literal["x", "y"], ...)}, ['a may now be "y"']),
    ({"a": (str, ...)}, {"a": (Literal["x"], ...)}, []),
    ({"a": (int | None, ...)}, {"a": (Literal[-1, None], ...)}, []),
    ({"a": (bool, ...)}, {"a": (Literal[False], ...)}, []),
    ({"a": (Literal["x"], ...)}, {"a": (Literal["x", None], ...)}, ["a may now be null"]),
    ({"a": (int, ...)}, {"a": (Annotated[int, Field(lt=9)], ...)}, []),
    ({"a": (dict[str, Inner], ...)}, {"a": (dict[str, Inner], ...)}, []),
    ({"a": (Inner, ...)}, {"a": (NewInner, ...)}, ["a.b is gone"]),
]


@pytest.mark.parametrize(("before", "after", "broken"), SENT)
def test_parameters_that_an_old_client_sends_must_be_accepted(
    before: Fields, after: Fields, broken: list[str]
) -> None:
    found = compare(document(params=before, result=int), document(params=after, result=int))
    assert found == [f"method shop.buy: payload.params.{line}" for line in broken]


@pytest.mark.parametrize(("before", "after", "broken"), RECEIVED)
def test_results_and_events_must_be_what_an_old_client_knows(
    before: Fields, after: Fields, broken: list[str]
) -> None:
    found = compare(document(result=before), document(result=after))
    assert found == [f"method shop.buy: payload.result.{line}" for line in broken]
    found = compare(document(event=before), document(event=after))
    assert found == [f"event bought: payload.event.{line}" for line in broken]


def test_a_method_an_event_and_a_topic_that_are_gone_are_named(contract: Contract) -> None:
    old = asyncapi(contract)
    assert compare(old, old) == []
    new = copy.deepcopy(old)
    for name in ("orders.place", "event.typing", "topic.rooms._"):
        del new["operations"][name]
    new["operations"]["orders.list"]["x-scopes"] = ["orders"]
    assert compare(old, new) == [
        "method orders.place is gone",
        "method orders.list requires the scope orders",
        "event typing is gone",
        "topic rooms.* is gone",
    ]
    assert compare(new, old) == []


def test_a_model_that_contains_itself_is_compared() -> None:
    class Tree(BaseModel):
        name: str
        children: list[Tree] = []

    class Changed(BaseModel):
        children: list[Changed] = []

    Changed.__name__ = "Tree"
    old, new = document(result=Tree), document(result=Changed)
    assert compare(old, old) == []
    assert compare(old, new) == [
        f"method shop.buy: payload.result.{field} is gone" for field in ("name", "children[].name")
    ]


def http(**operation: Any) -> dict[str, Any]:
    return {"openapi": "3.1.0", "paths": {"/orders": {"post": {"responses": {}, **operation}}}}


def body(**schema: Any) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": {"type": "object", **schema}}}}


def test_http_routes_are_compared_too() -> None:
    fields = {"a": {"type": "integer"}, "b": {"type": "string"}}
    old = http(
        requestBody=body(properties=fields, required=["a"]),
        responses={"201": body(properties=fields, required=["a", "b"]), "422": {}},
    )
    new = http(
        parameters=[{"name": "shop", "in": "query", "required": True}],
        requestBody=body(properties=fields, required=["a", "b"]),
        responses={"201": body(properties={"a": fields["a"]}, required=["a"])},
    )
    assert compare(old, old) == []
    assert compare(old, new) == [
        "POST /orders: the parameter shop is newly required",
        "POST /orders: body: b is newly required",
        "POST /orders: response: b is gone",
    ]
    assert compare(old, {"openapi": "3.1.0", "paths": {}}) == ["POST /orders is gone"]


OBJECT = {"type": "object"}


def fields(**properties: Any) -> dict[str, Any]:
    """An object with these fields; those whose names end with `_` are required, without it."""
    return {
        "type": "object",
        "properties": {name.rstrip("_"): schema for name, schema in properties.items()},
        "required": [name.rstrip("_") for name in properties if name.endswith("_")],
    }


INTEGER, NUMBER, TEXT = {"type": "integer"}, {"type": "number"}, {"type": "string"}
OPTIONAL = {"type": ["integer", "null"]}
CHANGES: dict[str, tuple[Any, Any, list[str], list[str]]] = {
    "null is one of the types": (OPTIONAL, INTEGER, [" no longer accepts null"], []),
    "null is a type of its own": (INTEGER, OPTIONAL, [], [" may now be null"]),
    "one of two": (
        {"oneOf": [TEXT, INTEGER]},
        {"anyOf": [TEXT]},
        [" no longer accepts integer"],
        [],
    ),
    "anything": ({}, TEXT, [" no longer accepts any"], []),
    "integers are numbers": (INTEGER, NUMBER, [], [" may now be number"]),
    "an integer is an integer": ({"const": 5}, INTEGER, [], [" may now be integer"]),
    "an integer is a number": ({"const": 5}, NUMBER, [], [" may now be number"]),
    "a number is no integer": (
        {"const": 5.5},
        INTEGER,
        [" no longer accepts 5.5"],
        [" may now be integer"],
    ),
    "a number is a number": ({"const": 5.5}, NUMBER, [], [" may now be number"]),
    "a text is a text": ({"enum": ["é"]}, TEXT, [], [" may now be string"]),
    "a text is no number": (
        {"enum": ["é"]},
        NUMBER,
        [' no longer accepts "é"'],
        [" may now be number"],
    ),
    "true is no number": (
        {"const": True},
        NUMBER,
        [" no longer accepts true"],
        [" may now be number"],
    ),
    "null is null": ({"const": None}, {"type": "null"}, [], []),
    "a list is no text": (
        {"const": [1]},
        TEXT,
        [" no longer accepts [1]"],
        [" may now be string"],
    ),
    "a pattern": (TEXT, {**TEXT, "pattern": "^a"}, [" is narrower: it must match ^a"], []),
    "another pattern": (
        {**TEXT, "pattern": "^b"},
        {**TEXT, "pattern": "^a"},
        [" is narrower: it must match ^a"],
        [],
    ),
    "the same pattern": ({**TEXT, "pattern": "^a"}, {**TEXT, "pattern": "^a"}, [], []),
    "no pattern": ({**TEXT, "pattern": "^a"}, TEXT, [], []),
    "a field is gone": (fields(b=TEXT), fields(c=TEXT), [".b is gone"], [".b is gone"]),
    "any field is accepted": (fields(b=TEXT), OBJECT, [], [".b is gone"]),
    "no field is accepted": (
        fields(b=TEXT),
        {**OBJECT, "additionalProperties": False},
        [".b is gone"],
        [".b is gone"],
    ),
    "a field may be absent": (fields(b_=TEXT), fields(b=TEXT), [], [".b may now be absent"]),
    "a field is required": (fields(b=TEXT), fields(b_=TEXT), [".b is newly required"], []),
    "deep inside": (
        fields(b=fields(c={"type": "array", "items": OPTIONAL})),
        fields(b=fields(c={"type": "array", "items": INTEGER})),
        [".b.c[] no longer accepts null"],
        [],
    ),
    "anything in a list": (
        {"type": "array", "items": True},
        {"type": "array", "items": TEXT},
        [],
        [],
    ),
    "a list of anything": (
        {"type": "array"},
        {"type": "array", "items": TEXT},
        ["[] no longer accepts any"],
        [],
    ),
    "all of several": (
        {"allOf": [fields(b=TEXT), fields(c_=TEXT)]},
        {"allOf": [fields(b_=TEXT), fields(d=TEXT)]},
        [".c is gone", ".b is newly required"],
        [".c is gone"],
    ),
    "required by one of two": (
        {"anyOf": [fields(b_=TEXT), fields(b_=TEXT, c_=TEXT)]},
        {"anyOf": [fields(b_=TEXT, c=TEXT), fields(b=TEXT, c=TEXT)]},
        [],
        [".b may now be absent"],
    ),
    "required by both": (
        fields(b=TEXT, c=TEXT),
        {"anyOf": [fields(b_=TEXT), fields(b_=TEXT, c_=TEXT)]},
        [".b is newly required"],
        [],
    ),
}


def of_field(changed: list[str]) -> list[str]:
    return [line.partition(": ")[2].partition(": a")[2] for line in changed]


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_a_field_breaks_who_sends_it_or_who_receives_it(what: str) -> None:
    before, after, sent, received = CHANGES[what]
    old, new = fields(a=before), fields(a=after)
    bodies = http(requestBody=body(**old)), http(requestBody=body(**new))
    assert of_field(compare(*bodies)) == sent
    answers = http(responses={"200": body(**old)}), http(responses={"200": body(**new)})
    assert of_field(compare(*answers)) == received
    assert compare(bodies[0], bodies[0]) == compare(answers[1], answers[1]) == []


LOWER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")
HIGHER = ("minimum", "exclusiveMinimum", "minLength", "minItems")


@pytest.mark.parametrize("keyword", [*LOWER, *HIGHER])
def test_a_limit_may_become_wider_for_what_is_sent(keyword: str) -> None:
    narrower, wider = (3, 7.5) if keyword in LOWER else (7.5, 3)

    def changed(before: float | None, after: float | None, way: str = "requestBody") -> list[str]:
        documents = []
        for limit in (before, after):
            schema = fields(a=NUMBER if limit is None else {**NUMBER, keyword: limit})
            sent, received = {"requestBody": body(**schema)}, {"responses": {"200": body(**schema)}}
            documents.append(http(**(sent if way == "requestBody" else received)))
        return of_field(compare(*documents))

    assert changed(wider, narrower) == [f" is narrower: {keyword} {narrower:g}"]
    assert changed(None, wider) == [f" is narrower: {keyword} {wider:g}"]
    for before, after in ((narrower, wider), (wider, wider), (wider, None)):
        assert changed(before, after) == []
    assert changed(wider, narrower, "responses") == []


def parameter(name: str, *, required: bool, where: str = "query") -> dict[str, Any]:
    return {"name": name, "in": where, "required": required}


def test_parameters_bodies_and_statuses_of_http_routes() -> None:
    needed = {**body(**fields(a=TEXT)), "required": True}
    known = [parameter("shop", required=False), parameter("page", required=True)]
    old = http(parameters=known, responses={"200": body(), "201": {}, "404": body()})
    for operation, lines in (
        ({"parameters": [*known, parameter("size", required=False)]}, []),
        ({"parameters": [parameter("shop", required=True)]}, []),
        (
            {"parameters": [parameter("shop", required=True, where="header")]},
            ["the parameter shop is newly required"],
        ),
        ({"requestBody": needed}, ["a body is newly required"]),
        ({"requestBody": {**needed, "required": False}}, []),
        ({"responses": {"200": {}, "201": body()}}, []),
        ({"responses": {"200": body()}}, ["the status 201 is gone"]),
        ({"responses": {"404": body()}}, ["the status 200 is gone", "the status 201 is gone"]),
    ):
        new = http(**{"responses": old["paths"]["/orders"]["post"]["responses"], **operation})
        assert compare(old, new) == [f"POST /orders: {line}" for line in lines]
    with_body = http(requestBody=needed)
    assert compare(with_body, with_body) == compare(with_body, http()) == []
    two = {"openapi": "3.1.0", "paths": {"/a": {"get": {}}, **with_body["paths"]}}
    changed = http(requestBody={**body(**fields(a=INTEGER)), "required": True})
    assert compare(two, changed) == [
        "GET /a is gone",
        "POST /orders: body: a no longer accepts string",
    ], "what follows something that is gone is compared too"
