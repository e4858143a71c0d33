"""The format of log lines, and which loggers are quiet."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from bff.settings import Settings
from bff.telemetry import logs

LIBRARIES = {"alembic.runtime.plugins", "httpx2", "uvicorn.error", "websockets.server"}
FILTERED = {"uvicorn.error", "uvicorn.access", "uvicorn.asgi", "websockets.server"}


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


@pytest.mark.parametrize("name", sorted(FILTERED))
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
