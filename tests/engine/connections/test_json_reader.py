"""One reader of JSON for sockets and HTTP: what it refuses, and what can be read of it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from bff.connections.json_reader import read_json
from bff.connections.refused_frames import type_and_trace_id
from bff.errors import Code, Problem
from bff.names import MAX_TRACE_ID
from hypothesis import example, given, settings
from hypothesis import strategies as st

_CHARACTERS = st.text(st.sampled_from(['"', "\\", ":", " ", "\n", "{", "}", "a", "é", "😀"]))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | _CHARACTERS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_CHARACTERS, inner, max_size=4),
    max_leaves=15,
)
_SEPARATORS = st.sampled_from([(",", ":"), (", ", ": "), (",\n", "\t:\r\n"), (" ,", " :")])
TRACE_ID = "trace-1"
MAX_DEPTH = 32


def read(text: str, max_keys: int = 100) -> Any:
    return read_json(text, max_depth=MAX_DEPTH, max_keys=max_keys)


def frame(params: str) -> str:
    """The text of a request with these parameters."""
    return (
        '{"type":"request","payload":{"service":"echo","method":"say",'
        f'"params":{params},"trace_id":"{TRACE_ID}"}}}}'
    )


REFUSED = {
    "half a surrogate pair": '{"text":"nice \\ud83d"}',
    "half a surrogate pair as key": '{"\\ude00":1}',
    "two halves in the wrong order": '{"text":"\\ude00\\ud83d"}',
    "not a number": '{"n":NaN}',
    "infinity": '{"n":-Infinity}',
    "infinite number": '{"n":1e999}',
    "endless integer": f'{{"n":{"1" * 5000}}}',
    "same key twice": '{"a":1,"a":2}',
    "same key twice, escaped": '{"a":1,"\\u0061":2}',
    "same key twice, spaced": '{"a" :1,"a"\n:2}',
    "same key twice, once spaced": '{"a":1,"a" :2}',
    "same key twice, deep": '{"b":[{"a":{"c":1,"c":1}}]}',
    "same key twice, near colons": '{"a":"\\":","a":" :"}',
    "many keys": json.dumps(dict.fromkeys(range(6000), 0), separators=(",", ":")),
    "deep": "[" * 200 + "]" * 200,
    "deeper": "[" * 2000 + "]" * 2000,
    "deeper, with strings": '[{"x\\"]":' * 1500 + "1" + "}]" * 1500,
}
"""Parameters that are refused by every reader."""


@pytest.mark.parametrize("params", REFUSED.values(), ids=REFUSED)
def test_what_other_readers_would_read_differently_is_refused(params: str) -> None:
    for text in (params, frame(params)):
        with pytest.raises(Problem) as refusal:
            read(text)
        assert refusal.value.code is Code.INVALID_PARAMS


@pytest.mark.parametrize("params", REFUSED.values(), ids=REFUSED)
def test_the_trace_id_of_a_refused_request_is_found(params: str) -> None:
    assert type_and_trace_id(frame(params)) == ("request", TRACE_ID)


@pytest.mark.parametrize("text", ["", "{", "not JSON", "[]", "null", '{"payload":[1]}', "\ufeff{}"])
def test_other_texts_have_no_trace_id(text: str) -> None:
    assert type_and_trace_id(text) == (None, None)


@pytest.mark.parametrize("start", ["", "[[[],", "[[[]],[[", '{"payload":{"a":{},"b":'])
@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"x\\"]":'])
def test_a_deep_text_that_does_not_end_has_no_trace_id(start: str, opening: str) -> None:
    assert type_and_trace_id(start + opening * 5000) == (None, None)


@pytest.mark.parametrize(
    ("trace_id", "is_repeated"),
    [
        ("\ud83d", False),
        ("\n", True),
        ("\n" * MAX_TRACE_ID, True),
        ("\n" * (MAX_TRACE_ID + 1), False),
        ("x" * (MAX_TRACE_ID + 1), False),
        (5, False),
        (None, False),
    ],
    ids=["half a character", "invalid", "longest", "longer", "long and valid", "number", "null"],
)
def test_a_trace_id_is_repeated_if_an_answer_can_contain_it(
    trace_id: str | int | None, is_repeated: bool
) -> None:
    """Even one that is not valid, but not one that is too long."""
    text = json.dumps({"type": "ping", "payload": {"trace_id": trace_id}})
    assert type_and_trace_id(text) == ("ping", trace_id if is_repeated else None)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(value=_JSON, separators=_SEPARATORS, ascii_only=st.booleans())
@example(value={"at": "10:00:00", "a": {"b": '":'}}, separators=(",", ":"), ascii_only=False)
def test_every_value_without_equal_keys_is_read_as_it_is(
    value: Any, separators: tuple[str, str], ascii_only: bool
) -> None:
    text = json.dumps(value, separators=separators, ensure_ascii=ascii_only)
    assert read(text) == value


@settings(derandomize=True, deadline=None, max_examples=200)
@given(
    pairs=st.lists(st.tuples(_CHARACTERS, _JSON), min_size=1, max_size=4),
    again=st.tuples(st.integers(0, 3), _JSON),
    separators=_SEPARATORS,
    ascii_only=st.booleans(),
)
def test_equal_keys_are_refused_wherever_they_are(
    pairs: list[tuple[str, Any]],
    again: tuple[int, Any],
    separators: tuple[str, str],
    ascii_only: bool,
) -> None:
    comma, colon = separators

    def dump(value: Any) -> str:
        return json.dumps(value, separators=separators, ensure_ascii=ascii_only)

    twice = [*pairs, (pairs[again[0] % len(pairs)][0], again[1])]
    members = comma.join(f"{json.dumps(key)}{colon}{dump(value)}" for key, value in twice)
    with pytest.raises(Problem, match="twice"):
        read(f"[{{{members}}}]")


def test_keys_are_counted_in_all_objects() -> None:
    text = json.dumps([{"a": 1, "b": {"c": 1}}, {"a": 2}])
    assert read(text, max_keys=4)
    with pytest.raises(Problem, match="More than 3 keys"):
        read(text, max_keys=3)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_a_value_may_be_as_deep_as_the_limit_and_no_deeper(opening: str, closing: str) -> None:
    def nested(depth: int) -> str:
        return opening * depth + "1" + closing * depth

    assert read(nested(MAX_DEPTH)) == json.loads(nested(MAX_DEPTH))
    with pytest.raises(Problem, match="Nested deeper than 32 levels"):
        read(nested(MAX_DEPTH + 1))


@pytest.mark.parametrize(
    "text", ["[" * 1500 + '"' + '\\"' * 30_000 + "\\", '"' + '\\"' * 30_000 + "\\"]
)
def test_a_string_without_an_end_costs_one_pass(text: str) -> None:
    """A search that starts again at each quote takes about twenty seconds for this."""
    begin = time.process_time()
    assert type_and_trace_id(text) == (None, None)
    assert time.process_time() - begin < 5
