"""Types for models of what NuroPb services send: their dates are not always ISO 8601."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

from pydantic import BeforeValidator


def _without_z(value: Any) -> Any:
    """NuroPb appends a `Z` to the output of `isoformat`: `2030-01-02Z`, `…+02:00Z`."""
    return value[:-1] if isinstance(value, str) and value.endswith("Z") else value


def _without_z_after_offset(value: Any) -> Any:
    """After an offset the `Z` is dropped. Without an offset it means UTC and stays."""
    bare = _without_z(value)
    if not isinstance(bare, str):
        return value
    return bare if bare[-6:-5] in ("+", "-") else value


DateTime = Annotated[dt.datetime, BeforeValidator(_without_z_after_offset)]
"""A datetime, in ISO 8601 or as NuroPb writes it."""
Date = Annotated[dt.date, BeforeValidator(_without_z)]
"""A date, in ISO 8601 or as NuroPb writes it."""
Time = Annotated[dt.time, BeforeValidator(_without_z)]
"""A time of day, in ISO 8601 or as NuroPb writes it."""
