"""What can be read of a frame that was refused, so that it is answered under its trace id."""

from __future__ import annotations

import json
import re
from typing import Any, Final, TypeGuard

import orjson

from bff.names import MAX_TRACE_ID

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\\?\Z)|[{}\[\]]', re.DOTALL)
"""A bracket, or a string. The last string may be unterminated: it must match too, or the search
would start again at each of its quotes, which takes quadratic time."""
_SHALLOW: Final = 2
"""The depth of the trace id in a frame."""
_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")


def type_and_trace_id(text: str) -> tuple[str | None, str | None]:
    """The type and the trace id of a frame; None for what it does not have or is unreadable."""
    value = _read(text)
    if not isinstance(value, dict):
        return None, None
    kind, payload = value.get("type"), value.get("payload")
    trace_id = payload.get("trace_id") if isinstance(payload, dict) else None
    return (
        kind if isinstance(kind, str) else None,
        trace_id if _can_be_repeated(trace_id) else None,
    )


def _read(text: str) -> Any:
    """Decode the text, even if it is not quite JSON. Of a text that is nested too deep, only the
    levels down to the trace id are decoded."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        # Python refuses to parse integers of more than 4,300 digits.
        return json.loads(text, parse_int=float)
    except ValueError:
        return None
    except RecursionError:
        pass
    try:
        return json.loads(_without_depth(text), parse_int=float)
    except ValueError:
        return None


def _without_depth(text: str) -> str:
    """The text with 0 in place of every object and array below `_SHALLOW`. One that does not end is
    replaced too."""
    parts: list[str] = []
    depth = kept_to = 0
    for token in _TOKEN.finditer(text):
        if token[0] in ("{", "["):
            depth += 1
            if depth == _SHALLOW + 1:
                parts += text[kept_to : token.start()], "0"
        elif token[0] in ("}", "]"):
            depth -= 1
            if depth == _SHALLOW:
                kept_to = token.end()
    if depth <= _SHALLOW:
        parts.append(text[kept_to:])
    return "".join(parts)


def _can_be_repeated(trace_id: Any) -> TypeGuard[str]:
    """Whether an answer can contain the trace id, even if it is not a valid one."""
    if not isinstance(trace_id, str) or len(trace_id) > MAX_TRACE_ID:
        return False
    return not _SURROGATE.search(trace_id)
