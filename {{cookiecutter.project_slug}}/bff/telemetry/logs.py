"""Logging as JSON lines or as text. Tokens, cookies and bodies are never logged."""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from typing import Any

import orjson

from bff.settings import MeshSettings

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
_LOGS_URLS = ("uvicorn.error", "uvicorn.access", "uvicorn.asgi", "websockets.server")
_QUERY = re.compile(r"\?\S*")
_LINE_BREAKS = re.compile("[\x85\u2028\u2029]")
"""Unicode's line breaks, which JSON need not escape."""
_MIN_LEVELS = {
    "alembic.runtime.plugins": logging.WARNING,
    "httpx2": logging.WARNING,
    "uvicorn.error": logging.INFO,
    "websockets.server": logging.WARNING,
}
"""Minimum level of loggers of libraries. Below it, uvicorn logs every header and frame, and
websockets repeats uvicorn's line for each connection."""


def configure(settings: MeshSettings) -> None:
    """Configure logging: one handler for everything, to standard error, in the chosen format."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for name, level in _MIN_LEVELS.items():
        logging.getLogger(name).setLevel(max(level, logging.getLogger().level))
    for name in _LOGS_URLS:
        logging.getLogger(name).addFilter(_HideQueries())
    logging.getLogger("alembic.runtime.migration").addFilter(_changes_the_schema)


def _changes_the_schema(record: logging.LogRecord) -> bool:
    """Alembic describes its context whenever the revision is read; only its steps are news."""
    return record.levelno > logging.INFO or str(record.msg).startswith("Running")


class _HideQueries(logging.Filter):
    """Removes query strings from logged URLs: they may contain a ticket."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                _QUERY.sub("?...", value) if isinstance(value, str) and "?" in value else value
                for value in record.args
            )
        return True


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _on_one_line(value: Any) -> str:
    """Escape line breaks and other control characters, so that a value cannot forge a log line."""
    text = str(value)
    return text if text.isprintable() else repr(text)


class JsonFormatter(logging.Formatter):
    """One JSON object per line; `extra` fields are keys of that object."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            text = orjson.dumps(line, default=str).decode()
        except TypeError:  # half a surrogate pair, or an integer of more than 64 bits
            return json.dumps(line, default=str)
        return text if text.isascii() else _LINE_BREAKS.sub(_escaped, text)


class TextFormatter(logging.Formatter):
    """One line of text with `key=value` for each `extra` field, for a terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        extra = " ".join(f"{key}={_on_one_line(value)}" for key, value in _extra(record).items())
        return f"{super().format(record)} {extra}".rstrip()
