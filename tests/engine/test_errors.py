"""An error says the same over HTTP and over WebSockets, and whether to try again."""

from __future__ import annotations

import pytest
from bff.errors import Code, Outcome, Problem, describe
from pydantic import BaseModel, ValidationError

TEMPORARY = {
    Code.RATE_LIMITED,
    Code.TOO_MANY_IN_FLIGHT,
    Code.SERVICE_UNAVAILABLE,
    Code.MESH_UNAVAILABLE,
    Code.TIMEOUT,
}


@pytest.mark.parametrize("code", list(Code))
@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("seconds", [None, 0.0005])
def test_a_retry_is_advised_only_if_it_can_succeed_and_does_nothing_twice(
    code: Code, outcome: Outcome, seconds: float | None
) -> None:
    problem = Problem(code, outcome=outcome, retry_after_seconds=seconds)
    over_socket, over_http = problem.as_error(), problem.as_problem_json()
    assert over_socket["retryable"] is (code in TEMPORARY and outcome is Outcome.NOT_SENT)
    common = {"code": code, "outcome": outcome, "retryable": problem.retryable}
    if seconds is not None:
        common["retry_after_ms"] = 1
    meaning = over_socket["description"]
    assert meaning
    assert over_socket["error"].startswith("Nuropb")
    error = over_socket["error"]
    assert over_socket == common | {"error": error, "description": meaning}
    with_words = Problem(code, "Order 5 is \ud83d paid")
    assert with_words.as_error()["description"] == "Order 5 is ? paid"
    assert with_words.as_problem_json()["detail"] == "Order 5 is ? paid"
    assert with_words.as_problem_json()["title"] == meaning
    assert str(with_words) == f"{code}: Order 5 is ? paid"
    assert over_http == common | {
        "type": f"urn:problem:{code}",
        "title": meaning,
        "detail": meaning,
        "status": code.status,
    }


class Item(BaseModel):
    price: int


class Order(BaseModel):
    items: list[Item]


@pytest.mark.parametrize(
    ("value", "skip", "where"),
    [
        ({"items": [{"price": 1}, {"price": "secret"}]}, 0, "items.1.price: "),
        ({"items": [{"price": 1}, {"price": "secret"}]}, 2, "price: "),
        ("secret", 0, ""),
    ],
)
def test_what_is_wrong_is_told_with_its_place_and_without_its_value(
    value: object, skip: int, where: str
) -> None:
    with pytest.raises(ValidationError) as invalid:
        Order.model_validate(value)
    sentence = describe(invalid.value, skip)
    assert sentence.startswith(f"{where}Input should be a valid ")
    assert "secret" not in sentence
