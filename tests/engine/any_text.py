"""Any text, for the tests of what may be a user id, a topic or another name."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, example, given
from hypothesis import settings as tries
from hypothesis import strategies as st

_SPECIAL = st.sampled_from(
    list('"\\{}%/:,.#* \n\r\t\0\x1f\x7f\x85\xa0\u2028\ufeff\ud83d\ude00aé😀')
)
TEXTS = st.text(_SPECIAL, max_size=8) | st.text(st.characters(), max_size=8)
"""Any text, more often with characters that a format may give a meaning."""
EXAMPLES = (
    'say-"hi"',
    "a\\b",
    "a}:meta",
    "a%7Db",
    "a%2Fb",
    "a/b/1",
    "a\nb",
    "b\n",
    "\ud83d",
    "rooms.a b",
    "x" * 256,
)


def every_example(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run a test with `EXAMPLES` and with any text."""
    for text in EXAMPLES:
        function = example(text=text)(function)
    return tries(
        derandomize=True,
        deadline=None,
        max_examples=60,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )(given(text=TEXTS)(function))


def is_text(text: str, max_length: int) -> bool:
    """Not empty, not too long, Unicode without control characters."""
    categories = {unicodedata.category(character) for character in text}
    return 0 < len(text) <= max_length and not categories & {"Cc", "Cs"}


def is_topic(text: str) -> bool:
    return is_text(text, 255) and "," not in text and not any(map(str.isspace, text))
