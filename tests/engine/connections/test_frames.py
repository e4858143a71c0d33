"""Inbound frames are validated; outbound frames are JSON that browsers can parse."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bff.connections.frames import encode, header
from bff.connections.json_reader import check_depth, decode
from bff.connections.messages import ErrorMessage, Event, Hello, parse
from bff.errors import Code, Outcome, Problem
from websockets.frames import Frame, Opcode


def test_nan_becomes_null() -> None:
    assert encode({"n": float("nan"), "i": float("inf")}) == b'{"n":null,"i":null}'


@pytest.mark.parametrize("length", [0, 1, 125, 126, 65_535, 65_536, 70_000])
@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_a_frame_is_as_websockets_would_send_it(opcode: Opcode, length: int) -> None:
    payload = bytes(length)
    assert header(opcode, length) + payload == Frame(opcode, payload).serialize(mask=False)


def test_a_token_that_has_expired_has_no_seconds_left() -> None:
    hello = Hello("one.1", "alice", "Alice", expires_at=1, ping_interval=25, positions={})
    assert hello.payload()["event"]["expires_in"] == 0


@pytest.mark.parametrize("text", ["", "{", "not JSON", '{"a":NaN}', "\ud800", "[" * 5000])
def test_invalid_json_is_refused(text: str) -> None:
    with pytest.raises(Problem) as refusal:
        decode(text.encode("utf-8", "surrogatepass"))
    assert refusal.value.code is Code.INVALID_PARAMS


def test_nesting_is_limited() -> None:
    def nested(depth: int) -> str:
        return "[" * depth + "]" * depth

    check_depth(decode(nested(32)), max_depth=32)
    with pytest.raises(Problem, match="deeper than 32"):
        check_depth(decode(nested(40)), max_depth=32)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"type": "not JSON", "payload": {}},
        {"type": "request"},
        {"type": "request", "payload": []},
        {"type": "request", "payload": {"service": "orders"}},
        {"type": "request", "payload": {"service": "orders", "method": 7}},
        {"type": "request", "payload": {"service": "a b", "method": "list"}},
        {"type": "request", "payload": {"service": "a", "method": "b", "params": []}},
        {"type": "request", "payload": {"service": "a", "method": "b", "trace_id": 5}},
        {"type": "request", "payload": {"service": "a", "method": "b", "timeout_ms": 0}},
        {"type": "cancel", "payload": {}},
        {"type": "subscribe", "payload": {"topics": []}},
    ],
)
def test_a_malformed_frame_is_refused_with_a_description(value: Any) -> None:
    with pytest.raises(Problem) as refusal:
        parse(value)
    assert refusal.value.code is Code.INVALID_PARAMS
    assert refusal.value.description


def test_the_description_names_the_field_and_not_the_value() -> None:
    with pytest.raises(Problem) as refusal:
        parse({"type": "request", "payload": {"service": "s3cr3t value", "method": "x"}})
    assert refusal.value.description.startswith("payload.service:")
    assert "s3cr3t" not in refusal.value.description


def test_the_head_and_an_id_make_a_complete_event() -> None:
    text = Event("order.updated", {"x": 1}).encode_start("user") + b'abc/7"}}'
    assert json.loads(text) == {
        "type": "event",
        "payload": {"topic": "order.updated", "event": {"x": 1}, "id": "user/abc/7"},
    }


def test_an_error_is_also_where_nuropb_gw_had_it() -> None:
    message = json.loads(ErrorMessage(Problem(Code.INVALID_PARAMS, "no"), "t").encode())
    assert (message["error"], message["description"]) == ("NuropbValidationError", "no")
    assert message["payload"]["trace_id"] == "t"


def test_retryable_only_when_a_retry_cannot_repeat_the_work() -> None:
    assert Problem(Code.MESH_UNAVAILABLE).retryable
    assert not Problem(Code.MESH_UNAVAILABLE, outcome=Outcome.UNKNOWN).retryable
    assert not Problem(Code.FORBIDDEN).retryable
