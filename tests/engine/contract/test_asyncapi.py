"""The AsyncAPI document."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, NotRequired

import pytest
from bff.connections.close_codes import CloseCode
from bff.connections.messages import Hello
from bff.contract.asyncapi import asyncapi, draft_7
from bff.contract.contract import Contract, TopicContract, contract_of
from bff.contract.documents import Documents
from bff.contract.examples import example
from bff.contract.schemas import Schemas, resolved
from bff.errors import Code
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings
from bff.testing import run
from fastapi import FastAPI
from jsonschema import Draft7Validator  # type: ignore[import-untyped]
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from tests.engine.echo import create_app
from tests.engine.everything import feature


@pytest.fixture
def document(contract: Contract) -> dict[str, Any]:
    return asyncapi(contract)


def messages(document: dict[str, Any], name: str) -> Draft7Validator:
    schema = document["components"]["messages"][name]["payload"]
    return Draft7Validator({**schema, "components": document["components"]})


def test_every_example_is_valid(document: dict[str, Any]) -> None:
    for name, message in document["components"]["messages"].items():
        Draft7Validator.check_schema(message["payload"])
        for shown in message["examples"]:
            messages(document, name).validate(shown["payload"])


def test_it_has_everything_that_is_declared(document: dict[str, Any]) -> None:
    operations = document["operations"]
    methods = {
        f"{one['x-method']['service']}.{one['x-method']['method']}"
        for one in operations.values()
        if "x-method" in one
    }
    assert methods == {
        "orders.place", "orders.list", "orders.get_*", "old.call", "old.un-do", "chat.now",
        "chat.any",
    }  # fmt: skip
    events = {one["x-event"]: one["x-stored"] for one in operations.values() if "x-event" in one}
    assert events == {"order.updated": True, "typing": False, "result": True}
    topics = {one["x-topic"] for one in operations.values() if "x-topic" in one}
    assert topics == {"rooms.*", "prices.#", "presence.#", "secret"}
    assert operations["orders.place"]["x-scopes"] == ["orders"]
    assert operations["event.order.updated"]["description"] == "An order has changed."
    assert operations["chat.now"]["description"].startswith("Nothing to say.")


def test_a_frame_that_differs_from_its_model_is_not_valid(document: dict[str, Any]) -> None:
    request = document["components"]["messages"]["orders.place.request"]["examples"][0]["payload"]
    assert request["payload"]["params"] == {"item": "tea"}
    request["payload"]["params"]["item"] = 7
    assert not messages(document, "orders.place.request").is_valid(request)
    response = {"trace_id": "a", "result": {"orderId": 1}, "error": None}
    frame = {"type": "response", "payload": response}
    assert not messages(document, "orders.place.response").is_valid(frame)
    assert messages(document, "response").is_valid(frame)
    event = {"type": "event", "payload": {"topic": "typing", "event": 7}}
    assert not messages(document, "event.typing").is_valid(event)


@pytest.mark.parametrize(
    ("name", "changes", "valid"),
    [
        ("orders.place", {}, True),
        ("orders.place", {"params": None}, False),
        ("orders.place", {"method": "list"}, False),
        ("orders.place", {"service": "shop"}, False),
        ("orders.place", {"timeout_ms": 1}, True),
        ("orders.place", {"timeout_ms": 0}, False),
        ("orders.list", {"method": "list", "params": {}}, True),
        ("orders.list", {"method": "list", "params": ...}, True),
        ("orders.get__", {"method": "get_all", "params": {"newsletter": True}}, True),
        ("orders.get__", {"method": "get_all", "params": ...}, False),
        ("old.call", {"service": "old", "method": "call", "params": {"any": 1}}, True),
        ("old.call", {"service": "old", "method": "call", "params": 7}, False),
    ],
)
def test_a_request_is_valid_as_it_is_accepted(
    document: dict[str, Any], name: str, changes: dict[str, Any], valid: bool
) -> None:
    """A change to `...` leaves the part out."""
    payload = {"service": "orders", "method": "place", "params": {"item": "tea"}} | changes
    payload = {part: value for part, value in payload.items() if value is not ...}
    request = {"type": "request", "payload": payload}
    assert messages(document, f"{name}.request").is_valid(request) is valid


class Base(BaseModel):
    kept: int
    """Of the base."""
    changed: int
    """Of the base, too."""


class Derived(Base):
    changed: int = 0
    """Of the derived class."""
    told: int = Field(0, description="In the field.")
    """Below the field."""
    silent: int = 0


class Partial(TypedDict):
    always: int
    sometimes: NotRequired[int]


def test_what_is_sent_is_described_by_its_docstrings_and_required_if_it_is_always_there() -> None:
    schemas = Schemas()
    sent, accepted = schemas.add("serialization", Derived), schemas.add("validation", Derived)
    partial = schemas.add("serialization", Partial)
    schemas.make()

    def made(number: int | None) -> dict[str, Any]:
        return resolved(schemas.of(number) or {}, schemas.definitions)

    assert made(sent)["required"] == ["kept", "changed", "told", "silent"]
    assert made(accepted)["required"] == ["kept"]
    assert made(partial)["required"] == ["always"]
    for number in (sent, accepted):
        fields = made(number)["properties"]
        assert {name: field.get("description") for name, field in fields.items()} == {
            "kept": "Of the base.",
            "changed": "Of the derived class.",
            "told": "In the field.",
            "silent": None,
        }


def test_it_names_every_error_code_and_close_code_in_words(document: dict[str, Any]) -> None:
    channel = document["channels"]["socket"]
    assert {one["code"] for one in channel["x-close-codes"]} == {int(code) for code in CloseCode}
    assert all(one["description"] for one in channel["x-close-codes"])
    assert {one["code"] for one in channel["x-error-codes"]} == set(Code)


@pytest.mark.parametrize("topics", [None, ["rooms.*"]])
def test_the_hello_has_exactly_the_fields_of_the_document(
    document: dict[str, Any], topics: list[str] | None
) -> None:
    hello = json.loads(Hello("a.b", "alice", "alice", 1, 25.0, {}, {}, topics).encode())
    messages(document, "hello").validate(hello)
    frame = document["components"]["messages"]["hello"]["payload"]["properties"]["payload"]
    known = frame["properties"]["event"]["properties"]
    assert set(hello["payload"]["event"]) == set(known) - ({"topics"} if topics is None else set())


def test_what_is_not_declared_is_listed(contract: Contract) -> None:
    assert list(contract.undeclared()) == [
        "method old.call: params, result",
        "method old.un-do: params, result",
        "method chat.any: result",
        "topic secret: payload",
    ]


def test_a_type_without_a_schema_is_not_declared() -> None:
    class Odd(BaseModel):
        ring: Callable[[], int]

    realtime = RealtimeRouter()
    realtime.expose("a", methods=["b"], result=type("Plain", (), {}))
    realtime.emits("rung", Odd)
    made = contract_of(realtime, title="t", version="1", socket_path="/ws")
    assert list(made.undeclared()) == ["method a.b: params, result"]
    assert [event.payload for event in made.events] == [{}], "it may be anything"


def test_the_limits_and_words_of_an_annotated_result_are_part_of_the_contract() -> None:
    realtime = RealtimeRouter()

    @realtime.method("dice.roll")
    async def roll() -> Annotated[int, Field(ge=1, le=6, description="What it shows")]:
        return 4

    (method,) = contract_of(realtime, title="t", version="1", socket_path="/ws").methods
    assert method.result == {
        "type": "integer",
        "minimum": 1,
        "maximum": 6,
        "description": "What it shows",
    }


@pytest.mark.parametrize("served", [True, False])
async def test_it_is_served_where_the_docs_are(settings: Settings, served: bool) -> None:
    changed = settings.model_copy(update={"api_docs": served})
    async with run(create_app(changed, feature())) as bff, bff.http() as http:
        answer = await http.get("/asyncapi.json")
        assert answer.status_code == (200 if served else 404)
        if served:
            assert answer.json()["channels"]["socket"]["address"] == "/ws"
            assert "orders.place" in answer.json()["operations"]


def test_the_socket_is_where_the_app_has_it(settings: Settings) -> None:
    app = FastAPI()
    documents = Documents(app, feature(), settings)
    app.add_api_route("/first", lambda: None)
    assert documents.contract().socket_path == "/ws"
    documents = Documents(app, feature(), settings)
    app.add_api_websocket_route("/live", lambda _: None)
    app.add_api_websocket_route("/other", lambda _: None)
    assert documents.asyncapi()["channels"]["socket"]["address"] == "/live"


def test_only_frames_with_a_trace_id_are_correlated_by_it() -> None:
    class Traced(BaseModel):
        trace_id: str

    realtime = RealtimeRouter()
    realtime.emits("traced", Traced)
    realtime.expose("shop", methods=["buy"], params=Traced, result=Traced)
    made = asyncapi(contract_of(realtime, title="t", version="1", socket_path="/ws"))
    correlated = {
        name for name, one in made["components"]["messages"].items() if "correlationId" in one
    }
    assert {"shop.buy.request", "shop.buy.response", "ping.in", "error"} <= correlated
    assert correlated.isdisjoint({"event.traced", "event", "hello", "gap", "drain", "close"})


def test_the_meaning_of_each_error_code_stands_at_their_schema_only(
    document: dict[str, Any],
) -> None:
    schemas = document["components"]["schemas"]
    lines = schemas["bff.Code"]["description"].splitlines()
    assert [line.split("`")[1] for line in lines] == [code.value for code in Code]
    others = {name: schema for name, schema in schemas.items() if name != "bff.Code"}
    assert others
    assert "* `unauthenticated` (401)" not in json.dumps(others)


def test_each_frame_has_its_direction_its_words_and_its_place(document: dict[str, Any]) -> None:
    operations, components = document["operations"], document["components"]["messages"]
    frames = {name: one for name, one in operations.items() if not {*one} & KINDS}
    received = {name for name, one in frames.items() if one["action"] == "receive"}
    assert received == {
        f"{name}.in"
        for name in (
            *("request", "command", "cancel", "subscribe", "unsubscribe"),
            *("authenticate", "ping", "pong"),
        )
    }
    assert frames.keys() - received == {
        *("hello", "subscribed", "unsubscribed", "event", "response", "error"),
        *("pong", "gap", "drain", "close"),
    }
    for name, operation in frames.items():
        assert operation["description"] == components[name]["description"]
        assert operation["messages"] == [{"$ref": f"#/channels/socket/messages/{name}"}]
    (channel,) = document["channels"].values()
    assert channel["address"] == "/ws"
    assert channel["messages"].keys() == components.keys()
    query = channel["bindings"]["ws"]["query"]["properties"]
    assert query.keys() == {"ticket", "since"}
    assert "description" not in operations["old.call"], "there are no words for it"
    reply = operations["old.call"]["reply"]
    assert reply["messages"] == [{"$ref": "#/channels/socket/messages/old.call.response"}]
    assert reply["channel"] == operations["old.call"]["channel"] == {"$ref": "#/channels/socket"}


KINDS = {"x-method", "x-event", "x-topic"}


def test_a_topic_has_a_name_and_a_payload_of_its_own(document: dict[str, Any]) -> None:
    def payload(name: str) -> Any:
        message = document["components"]["messages"][f"topic.{name}"]["payload"]
        return message["properties"]["payload"]["properties"]

    assert payload("secret")["topic"] == {"const": "secret"}
    assert payload("rooms._")["topic"] == payload("prices._")["topic"] == {"type": "string"}
    assert payload("prices._")["event"] == {"type": "number"}
    assert payload("secret")["event"] == {}
    realtime = RealtimeRouter()
    realtime.expose("s", methods=["m"])

    @realtime.topic("presence.#", payload=str)
    async def may_watch() -> bool:
        return True

    @realtime.topic("news")
    async def may_read() -> bool:
        return True

    @realtime.topic("cursors")
    async def may_follow() -> bool:
        return True

    realtime.emits("news", int)
    realtime.emits("cursors", int, stored=False)
    realtime.emits("notes.*", int)
    made = contract_of(realtime, title="", version="", socket_path="")
    assert {topic.pattern: (topic.payload, topic.stored) for topic in made.topics} == {
        "presence.#": ({"type": "string"}, True),
        "news": ({"type": "integer"}, True),
        "cursors": ({"type": "integer"}, False),
    }
    assert made.events == [], "they are topics, or patterns; without `keep_result` none is late"
    patterns = ("a.*", "a.#", "a._")
    topics = [TopicContract(one, "", [], None) for one in patterns]
    document = asyncapi(
        replace(contract_of(feature(), title="", version="", socket_path=""), topics=topics)
    )
    named = {
        name: one["x-topic"] for name, one in document["operations"].items() if "x-topic" in one
    }
    assert named == {"topic.a._": "a.*", "topic.a._-2": "a.#", "topic.a._-3": "a._"}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (True, True),
        (
            {"properties": {"const": {"prefixItems": [True]}}},
            {"properties": {"const": {"items": [True], "additionalItems": False}}},
        ),
        ({"const": {"prefixItems": [1]}, "required": ["discriminator"]}, None),
        ({"default": {"discriminator": {"propertyName": "a"}}, "enum": [{"items": 1}]}, None),
        ({"discriminator": {"propertyName": "kind", "mapping": {}}}, {"discriminator": "kind"}),
        (
            {"prefixItems": [{"type": "string"}, True], "items": False, "minItems": 2},
            {"items": [{"type": "string"}, True], "additionalItems": False, "minItems": 2},
        ),
        (
            {"items": {"prefixItems": [True]}},
            {"items": {"items": [True], "additionalItems": False}},
        ),
        (
            {"anyOf": [{"discriminator": {"propertyName": "a"}}, {"type": "null"}]},
            {"anyOf": [{"discriminator": "a"}, {"type": "null"}]},
        ),
        (
            {"patternProperties": {"^a": {"prefixItems": [True]}}},
            {"patternProperties": {"^a": {"items": [True], "additionalItems": False}}},
        ),
    ],
)
def test_a_schema_is_translated_to_the_draft_of_asyncapi(schema: Any, expected: Any) -> None:
    """What is the same in both drafts has None here: names and values are no keywords."""
    assert draft_7(schema) == (schema if expected is None else expected)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"examples": ["tea", "milk"], "default": "water"}, "tea"),
        ({"default": None, "type": "string"}, None),
        ({"const": 5, "type": "integer"}, 5),
        ({"enum": ["b", "a"]}, "b"),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, True),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, "text"),
        ({"anyOf": [], "type": "string"}, "text"),
        ({"$ref": "#/components/schemas/Node"}, {"name": "text", "next": None, "size": 7}),
        ({"allOf": [{"default": {"a": 1}}, {"default": {"b": 2}}, {"const": 3}]}, {"a": 1, "b": 2}),
        ({"type": "object"}, {}),
        ({"type": "array"}, []),
        ({"type": "array", "items": {"type": "string"}}, ["text"]),
        ({"type": "array", "items": {"type": "string"}, "minItems": 2}, ["text", "text"]),
        ({"type": "array", "prefixItems": [{"type": "string"}, {"const": 1}]}, ["text", 1]),
        ({"type": "string", "minLength": 6}, "textxx"),
        ({"type": "string", "maxLength": 2}, "te"),
        ({"type": "string", "format": "date"}, "2040-01-01"),
        ({"type": "string", "format": "unknown"}, "text"),
        ({"type": "integer"}, 1),
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": "integer", "minimum": -5}, -5),
        ({"type": "integer", "exclusiveMinimum": 5}, 6),
        ({"type": "integer", "maximum": -5}, -5),
        ({"type": "integer", "maximum": 1}, 1),
        ({"type": "number", "maximum": 1.5}, 1),
        ({"type": "number", "exclusiveMaximum": 0}, -1),
        ({"type": "number", "exclusiveMaximum": 2}, 1),
        ({"type": "number", "minimum": 3, "maximum": 3}, 3),
        ({"type": "null"}, None),
        ({}, None),
    ],
)
def test_an_example_is_what_the_schema_names_or_the_simplest_value(
    schema: Any, expected: Any
) -> None:
    node = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "next": {"$ref": "#/components/schemas/Node"},
            "size": {"type": "integer", "examples": [7]},
            "note": {"type": "string"},
        },
        "required": ["name", "next"],
    }
    assert example(schema, {"Node": node}) == expected
