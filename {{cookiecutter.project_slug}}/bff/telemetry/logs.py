"""Logs as JSON lines for machines or as text for people. No tokens, cookies or bodies, ever."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from typing import Any

import orjson

from bff.settings import MeshSettings

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
_LOGS_ADDRESSES = ("uvicorn.error", "uvicorn.access", "uvicorn.asgi", "websockets.server")
_QUERY = re.compile(r"\?\S*")
_NOISY = {
    "aiormq": logging.CRITICAL,
    "aio_pika": logging.CRITICAL,
    "alembic.runtime.plugins": logging.WARNING,
    "httpx": logging.WARNING,
    "uvicorn.error": logging.INFO,
    "websockets.server": logging.WARNING,
}
"""The least level of who talks too much: below it, uvicorn logs every header and frame, and
websockets says again that a socket was opened."""


def configure(settings: MeshSettings) -> None:
    """Send everything to standard error, once, in the chosen format."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if settings.log_format == "json" else TextFormatter())
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    for name, level in _NOISY.items():
        logging.getLogger(name).setLevel(max(level, logging.getLogger().level))
    for name in _LOGS_ADDRESSES:
        logging.getLogger(name).addFilter(_HideQueries())


class _HideQueries(logging.Filter):
    """Addresses without their query: a ticket may stand there, and servers log addresses."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                _QUERY.sub("?...", value) if isinstance(value, str) and "?" in value else value
                for value in record.args
            )
        return True


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """One JSON object a line; `extra` fields stand beside the message."""

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
        return orjson.dumps(line, default=str).decode()


class TextFormatter(logging.Formatter):
    """For a terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        extra = " ".join(f"{key}={value}" for key, value in _extra(record).items())
        return f"{super().format(record)} {extra}".rstrip()
