"""Limits the connections of a server: beyond the limit they are answered with 503."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any, Final
from weakref import WeakKeyDictionary

import uvicorn
from uvicorn.server import ServerState

from bff.http_headers import SAFE_RAW
from bff.server import handshake
from bff.settings import Settings
from bff.telemetry.metrics import CONNECTIONS_REFUSED

logger = logging.getLogger(__name__)

_SPARE_CONNECTIONS: Final = 64
"""Connections beyond the limit whose request is still read, for the probes of `/health/`. Without
them, a flood of connections would make the orchestrator restart the instance."""
_RESERVED_FILES: Final = 200
"""Open files besides `MAX_CONNECTIONS`: Redis, RabbitMQ, database, logs, spare connections."""
_PROBES: Final = "/health/"
_RETRY_AFTER: Final = b"5"
_LOG_SECONDS: Final = 60.0
_SERVICE_UNAVAILABLE: Final = 503
_HEADERS: Final = [
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"retry-after", _RETRY_AFTER),
    (b"connection", b"close"),
    *SAFE_RAW,
]
_BODY: Final = b"Too many connections\n"
REFUSAL: Final = handshake.response(_SERVICE_UNAVAILABLE, _HEADERS[:2], _BODY)
"""The same response as bytes, where no ASGI app runs: for a connection beyond `hard_limit`, and for
a WebSocket handshake beyond `limit`. `handshake.response` adds the other headers."""


class Config(uvicorn.Config):
    """uvicorn's configuration with the BFF's limit of connections."""

    max_connections: int = sys.maxsize
    """HTTP connections, event streams and WebSockets of this process together."""
    last_request_seconds: float = 0.0
    """How long an idle connection may send one more request when the server stops. 0: idle
    connections are closed at once, and the port stops listening at once."""


class Admission:
    """Counts and logs the connections that a server refuses."""

    def __init__(self, limit: int) -> None:
        self.limit: Final = limit
        self.hard_limit: Final = limit + _SPARE_CONNECTIONS
        """Beyond it, connections are closed before anything is read."""
        self._refused = 0
        """Connections refused since the last log line."""
        self._logged_at = -_LOG_SECONDS

    def refused(self) -> None:
        """Count a refused connection. Logs at most once a minute."""
        CONNECTIONS_REFUSED.labels("max_connections").inc()
        self._refused += 1
        now = time.monotonic()
        if now - self._logged_at >= _LOG_SECONDS:
            logger.warning(
                "connections refused: MAX_CONNECTIONS reached",
                extra={"limit": self.limit, "refused": self._refused},
            )
            self._logged_at, self._refused = now, 0

    def only_probes(self, app: Any) -> Any:
        """An ASGI app for a connection beyond the limit: 503, except for health probes."""

        async def limited(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"].startswith(_PROBES):
                await app(scope, receive, send)
                return
            self.refused()
            length = (b"content-length", b"%d" % len(_BODY))
            start = {"type": "http.response.start", "status": _SERVICE_UNAVAILABLE}
            await send({**start, "headers": [*_HEADERS, length]})
            await send({"type": "http.response.body", "body": _BODY})

        return limited


_admissions: WeakKeyDictionary[ServerState, Admission] = WeakKeyDictionary()


def admission_of(config: uvicorn.Config, state: ServerState) -> Admission:
    """Return the `Admission` of a server, which is created for its first connection."""
    found = _admissions.get(state)
    if found is None:
        limit = getattr(config, "max_connections", Config.max_connections)
        found = _admissions[state] = Admission(limit)
    return found


def connection_limit(settings: Settings) -> int:
    """`MAX_CONNECTIONS`, or less if the process is not allowed to open enough files."""
    limit = settings.max_connections
    files = _open_files()
    if limit <= files - _RESERVED_FILES:
        return limit
    lowered = max(1, files - _RESERVED_FILES)
    logger.warning(
        "MAX_CONNECTIONS lowered: the limit of open files is too low",
        extra={"files": files, "limit": lowered},
    )
    return lowered


def _open_files() -> int:
    """How many files the process may open (`ulimit -n`)."""
    if sys.platform == "win32":
        return sys.maxsize
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
