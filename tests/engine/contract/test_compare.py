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
