"""Which texts are names, decided by one rule for each kind of name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from bff import names
from bff.errors import Code, Problem
from pydantic import TypeAdapter, ValidationError

from tests.engine.any_text import every_example, is_text, is_topic

Rule = Callable[[str], bool]


class Kind(NamedTuple):
    """What is expected, and the means that decide it."""

    rule: Rule
    check: Callable[[str], None]
    accepts: Rule | None = None
    model: TypeAdapter[str] | None = None


def text_of(length: int) -> Rule:
    return lambda text: is_text(text, length)


def is_connection(text: str) -> bool:
    return len(text) <= 128 and re.fullmatch(r"[\w-]+\.[\w-]+", text, re.ASCII) is not None


def check_session(text: str) -> None:
    names.check_id(text, "the id of a session")


user, event, topic, connection, trace = (
    TypeAdapter[str](kind)
    for kind in (names.UserId, names.EventName, names.TopicName, names.ConnectionId, names.TraceId)
)
KINDS = {
    "a user id": Kind(text_of(128), names.check_user_id, names.is_user_id, user),
    "an event name": Kind(text_of(255), names.check_event_name, names.is_event_name, event),
    "a topic": Kind(is_topic, names.check_topic, names.is_topic, topic),
    "a connection id": Kind(
        is_connection, names.check_connection_id, names.is_connection_id, connection
    ),
    "a trace id": Kind(text_of(128), names.check_trace_id, names.is_trace_id, trace),
    "the id of a session": Kind(text_of(128), check_session),
    "an idempotency key": Kind(text_of(10**6), names.check_idempotency_key),
}
BORDERS = (
    *("x" * length for length in (0, 1, 128, 129, 255, 256)),
    *("a.b", "a.b.c", "a_1.-", "a.", ".b", "a.b\n", "é.b", "a b.c"),
    *(f"a.{'b' * length}" for length in (126, 127)),
)


def is_decided_alike(kind: str, text: str) -> None:
    expected, check, accepts, model = KINDS[kind]
    valid = expected(text)
    if valid:
        check(text)
    else:
        with pytest.raises(Problem, match=f"not {kind}: ") as refused:
            check(text)
        assert refused.value.code is Code.INVALID_PARAMS
    if accepts is not None:
        assert accepts(text) is valid
    if model is not None:
        assert is_accepted(model, text) is valid


def is_accepted(model: TypeAdapter[str], text: str) -> bool:
    try:
        return model.validate_python(text) == text
    except ValidationError:
        return False


@pytest.mark.parametrize("kind", KINDS)
@every_example
def test_any_text_is_decided_alike_by_each_of_the_means(kind: str, text: str) -> None:
    for one in (text, *BORDERS):
        is_decided_alike(kind, one)


def test_what_is_no_text_and_what_is_no_list_of_texts_is_refused() -> None:
    accepting = [kind.accepts for kind in KINDS.values() if kind.accepts is not None]
    other: tuple[Any, ...] = (None, 5, b"alice", ["alice"])
    assert [accepts(value) for accepts in accepting for value in other] == [False] * 20
    names.check_lists(scopes=["admin"], methods=())
    with pytest.raises(TypeError, match=r"scopes='admin' is a text: write scopes=\['admin'\]"):
        names.check_lists(methods=["get"], scopes="admin")
