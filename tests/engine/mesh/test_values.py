"""Models read NuroPb's dates as well as ISO 8601."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from uuid import UUID

from bff.codec import Date, DateTime, Time
from pydantic import BaseModel

VALUES = json.loads((Path(__file__).parent / "captures.json").read_text())["values"]


class Captured(BaseModel):
    naive: DateTime
    aware: DateTime
    plus2: DateTime
    date: Date
    time: Time
    td: str
    dec: Decimal
    uuid: UUID


class Moments(BaseModel):
    at: DateTime
    on: Date


def test_values_of_the_library_are_read() -> None:
    read = Captured.model_validate(VALUES)
    expected = datetime(2024, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
    assert read.naive == expected
    assert read.aware == expected
    assert read.plus2 == expected.replace(tzinfo=timezone(timedelta(hours=2)))
    assert (read.date, read.time) == (date(2024, 1, 2), time(3, 4, 5, 678))
    assert (read.dec, read.uuid.int) == (Decimal("1.50"), 7)


def test_iso_8601_is_read() -> None:
    for text in ("2024-01-02T03:04:05Z", "2024-01-02T03:04:05+00:00", "2024-01-02T03:04:05"):
        read = Moments.model_validate({"at": text, "on": "2024-01-02"})
        assert read.at.replace(tzinfo=UTC) == datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
        assert read.on == date(2024, 1, 2)
