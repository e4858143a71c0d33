"""The format of log lines, and which loggers are quiet."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from datetime import datetime

import pytest
from bff.settings import Settings
from bff.telemetry import logs

LIBRARIES = {"alembic.runtime.plugins", "httpx2", "uvicorn.error", "websockets.server"}
FILTERED = {
    "alembic.runtime.migration",
    *(QUERIES := {"uvicorn.error", "uvicorn.access", "uvicorn.asgi", "websockets.server"}),
}


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The configuration of logging is that of the process."""
    loggers = [logging.getLogger(name) for name in (None, *LIBRARIES, *FILTERED)]
    saved = [(one, one.level, [*one.handlers], [*one.filters]) for one in loggers]
    yield
    for one, level, handlers, filters in saved:
        one.setLevel(level)
        one.handlers[:], one.filters[:] = handlers, filters


@pytest.mark.parametrize("break_", ["\x85", "\u2028", "\u2029"], ids=ascii)
def test_unicodes_line_breaks_are_escaped(break_: str) -> None:
    record = logging.makeLogRecord({"msg": "stable", "topic": f"ä{break_}x"})
    line = logs.JsonFormatter().format(record)
    assert break_ not in line
    assert "ä" in line
    assert json.loads(line)["topic"] == f"ä{break_}x"


@pytest.mark.parametrize("level", ["DEBUG", "ERROR"])
def test_libraries_say_only_what_operators_need(settings: Settings, level: str) -> None:
    logs.configure(settings.model_copy(update={"log_level": level}))
    assert logging.getLogger().level == logging.getLevelName(level)
    (handler,) = logging.getLogger().handlers
    assert isinstance(handler.formatter, logs.JsonFormatter | logs.TextFormatter)
    expected = logging.ERROR if level == "ERROR" else logging.WARNING
    for name in LIBRARIES - {"uvicorn.error"}:
        assert logging.getLogger(name).level == expected
    headers = logging.ERROR if level == "ERROR" else logging.INFO
    assert logging.getLogger("uvicorn.error").level == headers


@pytest.mark.parametrize("name", sorted(QUERIES))
def test_queries_of_urls_are_hidden(
    settings: Settings, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """They may contain a ticket."""
    logs.configure(settings)
    logging.getLogger().addHandler(caplog.handler)
    logging.getLogger(name).error("%s asked %s: %d", "GET", "/ws?ticket=secret", 200)
    logging.getLogger(name).error("no arguments?")
    assert [one.getMessage() for one in caplog.records] == [
        "GET asked /ws?...: 200",
        "no arguments?",
    ]


@pytest.mark.parametrize(
    ("log_format", "kind"), [("json", logs.JsonFormatter), ("text", logs.TextFormatter)]
)
def test_the_format_is_chosen(settings: Settings, log_format: str, kind: type) -> None:
    logs.configure(settings.model_copy(update={"log_format": log_format}))
    (handler,) = logging.getLogger().handlers
    assert type(handler.formatter) is kind


@pytest.mark.parametrize(
    ("level", "message", "is_logged"),
    [
        (logging.INFO, "Running upgrade 0001 -> 0002", True),
        (logging.INFO, "Context impl SQLiteImpl.", False),
        (logging.WARNING, "Revision is missing", True),
    ],
    ids=["a step", "the context", "a warning"],
)
def test_of_a_migration_its_steps_and_its_warnings_are_logged(
    settings: Settings, level: int, message: str, is_logged: bool
) -> None:
    alembic = logging.getLogger("alembic.runtime.migration")
    logs.configure(settings.model_copy(update={"log_level": "INFO"}))
    assert (
        bool(alembic.filter(alembic.makeRecord("", level, "", 0, message, (), None))) is is_logged
    )


def formatted(formatter: logging.Formatter, **extra: object) -> str:
    """A line of the log, without its traceback."""
    facts = {"name": "bff.mesh", "levelname": "WARNING", "msg": "lost %d", "args": (3,)}
    return formatter.format(logging.makeLogRecord(facts | {"created": 1_700_000_000.5} | extra))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("ä", "ä"),
        (["a", 1], ["a", 1]),
        ("half \ud83d", "half \ud83d"),
        (2**64, 2**64),
        (frozenset("a"), "frozenset({'a'})"),
    ],
    ids=["text", "a list", "half a character", "a large number", "what JSON has not"],
)
def test_a_json_line_has_the_facts_the_traceback_and_every_extra_of_a_record(
    value: object, shown: object
) -> None:
    try:
        raise ValueError("no key")
    except ValueError:
        line = formatted(logs.JsonFormatter(), topic=value, exc_info=sys.exc_info())
    assert len(line.splitlines()) == 1
    said = json.loads(line)
    time, exception = said.pop("time"), said.pop("exception")
    assert datetime.fromisoformat(time).timestamp() == 1_700_000_000.5
    assert exception.startswith("Traceback")
    assert exception.endswith("ValueError: no key")
    assert said == {"level": "WARNING", "logger": "bff.mesh", "message": "lost 3", "topic": shown}
    assert "exception" not in json.loads(formatted(logs.JsonFormatter()))


@pytest.mark.parametrize(
    ("extra", "shown"),
    [
        ({}, ""),
        ({"reason": "no reply", "seconds": 5}, " reason=no reply seconds=5"),
        ({"topic": "a\nERROR forged"}, r" topic='a\nERROR forged'"),
    ],
    ids=["nothing", "facts", "a line break"],
)
def test_a_line_of_text_begins_with_the_time_and_ends_with_the_extra_facts(
    extra: dict[str, object], shown: str
) -> None:
    line = formatted(logs.TextFormatter(), **extra)
    assert re.fullmatch(r"\d\d:\d\d:\d\d", line[:8])
    assert line[8:] == f" WARNING bff.mesh: lost 3{shown}"
