"""Topic and method patterns match what they should, in a time that no pattern can blow up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pytest
from bff.names import topic_matches
from bff.realtime.exposure import Exposure, Pattern
from hypothesis import given, settings
from hypothesis import strategies as st

WORDS = st.sampled_from(["a", "b", "#", "*"])


def reference(pattern: Sequence[str], words: Sequence[str]) -> bool:
    """The rules of AMQP's topic exchange, word by word."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return reference(pattern[1:], words) or bool(words and reference(pattern, words[1:]))
    return bool(words) and pattern[0] in ("*", words[0]) and reference(pattern[1:], words[1:])


@settings(derandomize=True, deadline=None, max_examples=500)
@given(st.lists(WORDS, max_size=6), st.lists(WORDS, max_size=7))
def test_a_pattern_matches_by_the_rules_of_amqp(pattern: list[str], words: list[str]) -> None:
    assert topic_matches(pattern, words) is reference(pattern, words)


def method_matches(pattern: str, method: str) -> bool:
    return Pattern.of("s", pattern, Exposure(frozenset())).matches("s", method)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.text("ab*", min_size=1, max_size=6), st.text("ab.", min_size=1, max_size=7))
def test_a_method_pattern_takes_any_characters_for_a_star(pattern: str, method: str) -> None:
    expected = reference(["#" if one == "*" else one for one in pattern], list(method))
    assert method_matches(pattern, method) is expected


@pytest.mark.parametrize("fits", [False, True])
@pytest.mark.parametrize(
    "match",
    [
        lambda end: topic_matches(["#", "a"] * 30 + [end], ["a"] * 128),
        lambda end: topic_matches(["#"] * 30 + ["a", end], ["a"] * 128),
        lambda end: topic_matches(["#", "*"] * 30 + [end], ["a"] * 128),
        lambda end: method_matches("*a" * 30 + end, "a" * 128),
        lambda end: method_matches("*" * 60 + "a" + end, "a" * 128),
    ],
)
def test_many_wildcards_take_no_longer(match: Callable[[str], bool], fits: bool) -> None:
    """A match that tries every split of 128 words among 30 wildcards never ends."""
    begin = time.process_time()
    assert match("a" if fits else "b") is fits
    assert time.process_time() - begin < 1
