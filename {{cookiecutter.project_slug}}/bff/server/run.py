"""Runs uvicorn: limits, pings, and sockets that are sent elsewhere at the end."""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
from contextlib import suppress
from tempfile import TemporaryDirectory
from typing import Any

import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.supervisors import ChangeReload, Multiprocess, multiprocess

from bff.factory import FACTORY
from bff.server.http import SUPPORTED
from bff.settings import Settings
from bff.telemetry import logs

logger = logging.getLogger(__name__)

_GC_THRESHOLDS = (20_000, 50, 100)
"""Idle sockets are long-lived objects: looking at all of them again and again for garbage would
hold up the loop, the longer the more there are."""


class Server(uvicorn.Server):
    """A server for many sockets that stay."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then exempt what is there for good from garbage collection."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)


class _Worker(multiprocess.Process):
    """A worker process of several, with our server in it."""

    @property
    def server(self) -> uvicorn.Server:
        if self._server is None:
            self._server = Server(config=self.config)
        return self._server

    def join(self) -> None:
        """Wait for its end; its sockets and its links no longer count in the metrics."""
        super().join()
        mark_process_dead(self.pid)  # type: ignore[no-untyped-call]


def configuration(
    settings: Settings, app: Any = FACTORY, *, ws: str | None = None, **options: Any
) -> uvicorn.Config:
    """How uvicorn serves the app, here and in tests; `ws` is another WebSocket protocol."""
    return uvicorn.Config(
        app,
        factory=app is FACTORY,
        http="bff.server.http:HttpProtocol" if _is_known() else "auto",
        ws=ws or _websocket_protocol(),
        ws_max_size=settings.max_frame_bytes,
        ws_ping_interval=settings.ping_interval_seconds,
        ws_ping_timeout=settings.ping_timeout_seconds,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=5,
        server_header=False,
        log_config=None,
        **options,
    )


def run(
    settings: Settings, *, host: str, port: int, workers: int = 1, reload: bool = False
) -> None:
    """Serve until a signal comes."""
    logs.configure(settings)
    _take_all_file_handles()
    config = configuration(settings, host=host, port=port, workers=workers, reload=reload)
    if reload:
        ChangeReload(config, target=Server(config).run, sockets=[config.bind_socket()]).run()
    elif workers > 1:
        multiprocess.Process = _Worker  # type: ignore[misc]
        with TemporaryDirectory(prefix="bff-metrics-") as shared:
            os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", shared)
            Multiprocess(config, sockets=[config.bind_socket()]).run()
    else:
        with suppress(KeyboardInterrupt):
            Server(config).run()


def _take_all_file_handles() -> None:
    """Raise the soft limit to the hard one: every socket takes a handle, and without any left new
    ones are closed in silence. The soft limit is 1,024 on most systems, for the sake of programs
    that call select(2)."""
    if sys.platform != "win32":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(ValueError, OSError):  # macOS calls its hard limit infinite, and refuses that
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _websocket_protocol() -> str:
    """Ours, if it knows the inside of this uvicorn; sockets work with any."""
    if _is_known():
        return "bff.server.protocol:WebSocketProtocol"
    logger.warning(
        "uvicorn %s is not one of %s*: sockets cost more than they need to",
        uvicorn.__version__,
        "*, ".join(SUPPORTED),
    )
    return "websockets-sansio"


def _is_known() -> bool:
    return uvicorn.__version__.startswith(SUPPORTED)
