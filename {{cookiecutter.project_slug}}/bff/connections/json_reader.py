"""Reads JSON from clients: one set of rules for WebSocket frames and HTTP bodies."""

from __future__ import annotations

import json
import re
from typing import Any, Final

import orjson

from bff.errors import Code, Problem

_SPACED_COLON: Final = re.compile(r"[ \t\r\n]:")


def read_json(text: str, *, max_depth: int, max_keys: int) -> Any:
    """Decode JSON text that every other reader of it would understand in the same way.

    Raises:
        Problem: `invalid_params` when the text is not JSON (RFC 8259), which has no NaN; when it
            contains half a surrogate pair; when it is nested deeper than `max_depth`; when its
            objects have more than `max_keys` keys in all, or one of them twice.
    """
    value = decode(text)
    keys = check_depth(value, max_depth)
    if keys > max_keys:
        raise Problem(Code.INVALID_PARAMS, f"More than {max_keys} keys")
    # orjson keeps the last of two equal keys. There are none if the text has no more places that
    # look like the end of a key.
    if text.count(":") != keys and (text.count('":') != keys or _SPACED_COLON.search(text)):
        _check_unique_keys(text)
    return value


def decode(data: str | bytes) -> Any:
    """Decode JSON text of any depth.

    Raises:
        Problem: `invalid_params` when it is not JSON.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Problem(Code.INVALID_PARAMS, f"Error decoding JSON: {error}") from None


def check_depth(value: Any, max_depth: int) -> int:
    """Limit the nesting of decoded JSON; returns the number of keys in all its objects.

    Raises:
        Problem: `invalid_params` when it is deeper than `max_depth`.
    """
    keys = 0
    level = [value]
    for _ in range(max_depth + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                keys += len(item)
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        if not inner:
            return keys
        level = inner
    raise Problem(Code.INVALID_PARAMS, f"Nested deeper than {max_depth} levels")


def _check_unique_keys(text: str) -> None:
    try:
        json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise Problem(Code.INVALID_PARAMS, "Nested too deep") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) != len(pairs):
        raise Problem(Code.INVALID_PARAMS, "An object has the same key twice")
