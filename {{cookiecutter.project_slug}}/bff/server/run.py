"""Configures and runs uvicorn."""

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
from bff.server.admission import Config, connection_limit
from bff.server.http import SUPPORTED
from bff.server.listener import refuse_connects
from bff.settings import Settings
from bff.telemetry import logs

logger = logging.getLogger(__name__)

_GC_THRESHOLDS = (20_000, 50, 100)
"""Idle connections are long-lived objects. With the default thresholds, full collections would
traverse all of them often and block the loop, longer with each connection."""

_OPEN_MAX_OF_MACOS = 10_240
"""The most files that macOS lets a process open while its hard limit is infinite (`OPEN_MAX`)."""

_WORKER_SECONDS = 20
"""How long a worker may take to answer its parent, before the parent kills it. The first answer
comes when the worker has imported the engine: on a busy machine that takes longer than uvicorn's
5 s, and workers would be killed and started without end."""

_KEEP_ALIVE_SECONDS = 130
"""How long an idle HTTP connection stays open: longer than proxies keep theirs (nginx and AWS 60 s,
Traefik 90 s, Caddy 120 s). A request that a proxy sends just as the instance closes is lost."""

_LAST_REQUEST_SECONDS = 1.0
"""`Config.last_request_seconds`; a drain time that is shorter shortens it."""


class Server(uvicorn.Server):
    """uvicorn's server, with a garbage collector tuned for many long-lived connections, and a stop
    that loses no request."""

    config: Config

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then exempt all objects that exist now from garbage collection."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting connections, answer what has been sent, and stop the app."""
        if self.config.last_request_seconds and not sockets:
            await refuse_connects(each for server in self.servers for each in server.sockets)
        await super().shutdown(sockets)


class _Workers(Multiprocess):
    """The parent of the worker processes of `--workers`."""

    def terminate_all(self) -> None:
        """Tell the workers to stop. The port is closed when the last one closes it: connections
        that nothing accepts would wait here until they are reset."""
        super().terminate_all()
        for listener in self.sockets:
            listener.close()


class _Worker(multiprocess.Process):
    """A worker process of `--workers`, which runs our `Server`."""

    @property
    def server(self) -> uvicorn.Server:
        if self._server is None:
            self._server = Server(config=self.config)
        return self._server

    def join(self) -> None:
        """Wait for the process to end, then remove its gauges from the metrics."""
        super().join()
        mark_process_dead(self.pid)  # type: ignore[no-untyped-call]


def configuration(
    settings: Settings, app: Any = FACTORY, *, ws: str | None = None, **options: Any
) -> Config:
    """uvicorn's configuration, for `bff serve` and for tests.

    `ws` names another WebSocket protocol class, like uvicorn's option of that name.
    """
    config = Config(
        app,
        factory=app is FACTORY,
        http="bff.server.http:HttpProtocol" if _is_supported() else "auto",
        ws=ws or _websocket_protocol(),
        ws_max_size=settings.max_frame_bytes,
        ws_ping_interval=settings.ping_interval_seconds,
        ws_ping_timeout=settings.ping_timeout_seconds,
        ws_per_message_deflate=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=5,
        timeout_worker_healthcheck=_WORKER_SECONDS,
        server_header=False,
        log_config=None,
        **options,
    )
    config.max_connections = connection_limit(settings)
    return config


def run(
    settings: Settings, *, host: str, port: int, workers: int = 1, reload: bool = False
) -> None:
    """Serve until SIGINT or SIGTERM."""
    logs.configure(settings)
    _raise_file_limit()
    config = configuration(settings, host=host, port=port, workers=workers, reload=reload)
    config.last_request_seconds = min(_LAST_REQUEST_SECONDS, settings.drain_seconds)
    if reload:
        ChangeReload(config, target=Server(config).run, sockets=[config.bind_socket()]).run()
    elif workers > 1:
        multiprocess.Process = _Worker  # type: ignore[misc]
        with TemporaryDirectory(prefix="bff-metrics-") as shared:
            os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", shared)
            _Workers(config, sockets=[config.bind_socket()]).run()
    else:
        with suppress(KeyboardInterrupt):
            Server(config).run()


def _raise_file_limit() -> None:
    """Raise the soft limit of open files to the hard limit.

    Every connection needs a file descriptor. The soft limit is 1,024 on most systems, for programs
    that call select(2), and 256 on macOS, which rejects its infinite hard limit here.
    """
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        for limit in (hard, max(soft, _OPEN_MAX_OF_MACOS)):
            with suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
                return


def _websocket_protocol() -> str:
    """Our protocol class, or uvicorn's if this release of uvicorn was not checked."""
    if _is_supported():
        return "bff.server.protocol:WebSocketProtocol"
    logger.warning(
        "unsupported uvicorn, using its slower protocol classes",
        extra={"uvicorn": uvicorn.__version__, "supported": "*, ".join(SUPPORTED) + "*"},
    )
    return "websockets-sansio"


def _is_supported() -> bool:
    return uvicorn.__version__.startswith(SUPPORTED)
