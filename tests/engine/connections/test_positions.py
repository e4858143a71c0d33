"""Positions are read as they were written, and nothing else is read."""

from __future__ import annotations

import pytest
from bff.connections.positions import Position, format_cursor, parse_cursor
from hypothesis import given, settings
from hypothesis import strategies as st

_STREAMS = st.sampled_from(["user", "all", "topic:news", "topic:a/b/1", "topic:é😀"])
_EPOCHS = st.text(st.sampled_from("09az"), min_size=1, max_size=64)
_POSITIONS = st.builds(Position, _EPOCHS, st.integers(0, 10**15 - 1))


@settings(derandomize=True, deadline=None)
@given(positions=st.dictionaries(_STREAMS, _POSITIONS))
def test_a_cursor_is_read_as_it_was_written(positions: dict[str, Position]) -> None:
    assert parse_cursor(format_cursor(positions)) == positions


@pytest.mark.parametrize(
    "text",
    [
        "user",
        "user/abc",
        "user/abc/",
        "user/abc/-1",
        "user/abc/1 ",
        "user/ABC/1",
        "user//1",
        "other/abc/1",
        "topic:/abc/1",
        "topic:a b/abc/1",
        f"user/{'a' * 65}/1",
        f"user/abc/{10**15}",
        "user/abc/1,",
        "user/abc/1,user/abc/1",
        "user/abc/1,all/abc/1,user/def/2",
    ],
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="position"):
        parse_cursor(text)
