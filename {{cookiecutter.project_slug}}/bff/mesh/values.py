"""Types for models of what NuroPb services send: what they write is not always ISO 8601."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

from pydantic import BeforeValidator


def _without_z(value: Any) -> Any:
    """NuroPb puts a `Z` behind whatever `isoformat` gives: `2030-01-02Z`, `…+02:00Z`."""
    return value[:-1] if isinstance(value, str) and value.endswith("Z") else value


def _moment(value: Any) -> Any:
    """A `Z` behind an offset means nothing; behind none it means UTC."""
    bare = _without_z(value)
    if bare is value or not isinstance(bare, str):
        return value
    return bare if bare[-6:-5] in ("+", "-") else value


DateTime = Annotated[dt.datetime, BeforeValidator(_moment)]
Date = Annotated[dt.date, BeforeValidator(_without_z)]
Time = Annotated[dt.time, BeforeValidator(_without_z)]
