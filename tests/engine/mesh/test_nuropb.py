"""Messages are equal to those of the NuroPb library, and its messages are decoded."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from bff.errors import Code, Outcome, Problem
from bff.mesh import nuropb
from bff.mesh.messages import Delivery, Kind, MalformedMessage, Message
from bff.mesh.nuropb import MAX_DESCRIPTION

CAPTURES = json.loads((Path(__file__).parent / "captures.json").read_text())

CALL = Message(Kind.REQUEST, "s", b"", "c", "t", 0)


async def _deadline() -> float:
    return asyncio.get_running_loop().time() + 10


@pytest.mark.parametrize("kind", [Kind.REQUEST, Kind.COMMAND])
async def test_a_call_is_encoded_as_by_the_library(kind: Kind) -> None:
    captured = CAPTURES[kind]["body"]
    message = nuropb.call(
        kind,
        captured["service"],
        captured["method"],
        captured["params"],
        captured["context"],
        captured["trace_id"],
        await _deadline(),
    )
    assert _same(message, CAPTURES[kind])
    assert 9_000 < int(message.expiration or 0) <= 10_000


async def test_an_event_is_encoded_as_by_the_library() -> None:
    captured = CAPTURES["event"]["body"]
    message = nuropb.event(
        captured["topic"], captured["event"], captured["context"], None, "t", await _deadline()
    )
    expected = {**CAPTURES["event"], "body": {**captured, "trace_id": "t"}}
    expected["headers"] = {**expected["headers"], "trace_id": "t"}
    assert _same(message, expected)
    assert message.expiration is None


def _same(message: Message, captured: dict[str, Any]) -> bool:
    body = json.loads(message.body)
    assert body.pop("correlation_id") == message.correlation_id
    assert body == {k: v for k, v in captured["body"].items() if k != "correlation_id"}
    assert message.headers == captured["headers"]
    assert message.routing_key == captured["routing_key"]
    return True


async def test_a_reply_has_every_field_of_the_library() -> None:
    captured = json.loads(CAPTURES["reply"])
    ids = (captured["correlation_id"], captured["trace_id"])
    request = Delivery("s", b"", *ids, kind="request", reply_to=captured["reply_to"])
    made = nuropb.response(request, captured["result"], None)
    assert json.loads(made.body) == {**captured, "context": {}}
    assert (made.routing_key, made.correlation_id) == (captured["reply_to"], ids[0])
    assert made.headers["nuropb_type"] == "response"
    assert made.headers["trace_id"] == made.trace_id == ids[1]
    assert made.expiration is None
    left = made.deadline - asyncio.get_running_loop().time()
    assert 0 < left <= nuropb.REPLY_SECONDS


async def test_a_reply_without_a_trace_id_has_an_empty_one() -> None:
    """All headers are texts: others shut down a NuroPb service."""
    made = nuropb.response(Delivery("s", b"", "c", kind="request", reply_to="r"), 1, None)
    assert made.trace_id == ""
    assert all(isinstance(value, str) for value in made.headers.values())
    assert json.loads(made.body)["trace_id"] is None


def test_a_reply_of_the_library_is_decoded() -> None:
    assert nuropb.decode_reply(CAPTURES["reply"].encode()).result == {"a": 1}


@pytest.mark.parametrize("replies", ["error_replies", "async_error_replies"])
def test_the_first_reply_after_an_exception_is_an_error(replies: str) -> None:
    reply = nuropb.decode_reply(CAPTURES[replies][0].encode())
    assert reply.error is not None
    assert nuropb.problem(reply.error, CALL).code is Code.SERVICE_ERROR


def test_an_event_of_the_library_is_decoded() -> None:
    captured = CAPTURES["event"]
    body = json.dumps(captured["body"]).encode()
    event = nuropb.decode_event(Delivery(captured["routing_key"], body, "c1"))
    assert (event.topic, event.payload, event.context) == ("spec.in.x", {"k": 1}, {"user_id": "u"})
    assert event.target is None


def test_events_with_one_correlation_id_have_different_ids() -> None:
    deliveries = [Delivery("t", json.dumps({"event": n}).encode(), "c1") for n in (1, 1, 2)]
    ids = [nuropb.decode_event(delivery).id for delivery in deliveries]
    assert ids[0] == ids[1] != ids[2]


def test_events_without_a_correlation_id_have_unique_ids() -> None:
    delivery = Delivery("t", b'{"event": 1}', "")
    assert nuropb.decode_event(delivery).id != nuropb.decode_event(delivery).id


def test_nan_and_infinities_become_null() -> None:
    reply = nuropb.decode_reply(b'{"result": {"a": NaN, "b": [Infinity, -Infinity, 1]}}')
    assert reply.result == {"a": None, "b": [None, None, 1]}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b"null",
        b"\xff\xfe",
        b'{"result": NaN',
        b"[" * 100_000,
        b'{"result": "\\ud800", "x": NaN}',
    ],
)
def test_other_bodies_are_malformed(body: bytes) -> None:
    with pytest.raises(MalformedMessage):
        nuropb.decode_reply(body)


@pytest.mark.parametrize("value", [{1: "a"}, {"a": object()}, {"a": 2**70}])
async def test_values_that_are_not_json_are_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        nuropb.event("t", value, {}, None, "t", await _deadline())


@pytest.mark.parametrize(
    ("error", "code", "outcome", "passed_on"),
    [
        ("NuropbAuthenticationError", Code.UNAUTHENTICATED, Outcome.DONE, True),
        ("NuropbAuthorizationError", Code.FORBIDDEN, Outcome.DONE, True),
        ("NuropbValidationError", Code.INVALID_PARAMS, Outcome.DONE, True),
        ("NuropbDeprecatedError", Code.DEPRECATED, Outcome.DONE, True),
        ("NuropbNotDeliveredError", Code.SERVICE_UNAVAILABLE, Outcome.UNKNOWN, False),
        ("NuropbCallAgainReject", Code.SERVICE_UNAVAILABLE, Outcome.UNKNOWN, False),
        ("NuropbTimeoutError", Code.TIMEOUT, Outcome.UNKNOWN, False),
        ("NuropbHandlingError", Code.SERVICE_ERROR, Outcome.DONE, False),
        ("RuntimeError", Code.SERVICE_ERROR, Outcome.DONE, False),
    ],
)
def test_each_error_class_has_its_code(
    error: str, code: Code, outcome: Outcome, passed_on: bool
) -> None:
    problem = nuropb.problem({"error": error, "description": "words"}, CALL)
    assert (problem.code, problem.outcome) == (code, outcome)
    assert (problem.description == "words") is passed_on
    assert not problem.retryable, "the service has begun"


@pytest.mark.parametrize("error", [{"code": "conflict"}, {"error": "NuropbValidationError"}])
@pytest.mark.parametrize("description", ["", None])
def test_an_error_without_a_description_gets_the_one_of_its_code(
    error: dict[str, Any], description: str | None
) -> None:
    problem = nuropb.problem({**error, "description": description}, CALL)
    assert problem.description == Problem(problem.code).description


@pytest.mark.parametrize(("outcome", "expected"), [("unknown", "unknown"), ("not_sent", "done")])
def test_the_outcome_of_a_service_is_unknown_or_done(outcome: str, expected: str) -> None:
    problem = nuropb.problem({"code": "conflict", "outcome": outcome}, CALL)
    assert problem.outcome == expected


def test_a_long_description_is_cut() -> None:
    error = {"code": "conflict", "description": "x" * (MAX_DESCRIPTION + 1)}
    assert nuropb.problem(error, CALL).description == "x" * MAX_DESCRIPTION


def test_an_unknown_method_is_not_found() -> None:
    error = {"error": "NuropbHandlingError", "description": "Unknown method nope"}
    assert nuropb.problem(error, CALL).code is Code.NOT_FOUND


def test_an_unknown_method_that_another_error_names_is_hidden() -> None:
    error = {"error": "RuntimeError", "description": "Unknown method of /etc/passwd"}
    problem = nuropb.problem(error, CALL)
    assert problem.code is Code.SERVICE_ERROR
    assert "passwd" not in problem.description


@pytest.mark.parametrize(("kind", "words"), [("event", "event"), ("", "no nuropb_type")])
def test_a_message_that_is_no_call_is_named(kind: str, words: str) -> None:
    delivery = Delivery("s", b'{"method": "m"}', "c", kind=kind)
    with pytest.raises(MalformedMessage, match=f": {words}$"):
        nuropb.decode_request(delivery.body, delivery)
