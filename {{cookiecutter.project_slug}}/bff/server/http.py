"""HTTP connections that can be aborted and upgraded to WebSockets.

This depends on private parts of uvicorn's HTTP protocol class (`bff/COUPLINGS.md`). `SUPPORTED`
lists the releases it was checked with; with any other, `run.py` falls back to uvicorn's classes.
"""

from __future__ import annotations

import asyncio
import sys
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bff.connections.transport import ABORT
from bff.server import handshake
from bff.server.asgi import AsgiSocket
from bff.server.flush_scheduler import scheduler_of
from bff.server.protocol import WebSocketProtocol

SUPPORTED: Final = ("0.54.",)

_MAX_HEAD_BYTES: Final = 65_536
"""Bytes of an incomplete request head (or of trailers), not counting the read in which it began."""
_HEAD_SECONDS: Final = 30.0
"""How long a client may take to send a complete head, from the connect or the head's first byte."""


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's HTTP protocol with three additions.

    * The extension `ABORT` in the scope of each request.
    * Limits on the size and time of a request head and of trailers.
    * A WebSocket upgrade passes the parsed request on. uvicorn would serialise it, and its
      WebSocket protocol would parse it a second time.
    """

    _last_read = b""
    _is_in_head = False
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._last_read = data
        super().data_received(data)
        self._last_read = b""
        if not self._is_in_head:
            self._stop_head_timer()
            return
        self._start_head_timer()
        self._head_bytes += len(data)
        if self._head_bytes > _MAX_HEAD_BYTES:
            fields = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self.transport.write(handshake.response(fields))
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_started()
        offered: Any = {ABORT: self.transport.abort}
        self.scope["extensions"] = offered

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """A chunk follows, or trailers after the last one: the parser buffers them like a head."""
        self._head_started()

    def on_body(self, body: bytes) -> None:
        self._is_in_head = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_head = False
        super().on_message_complete()

    def _head_started(self) -> None:
        self._stop_head_timer()
        self._is_in_head, self._head_bytes = True, -len(self._last_read)

    def _start_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(_HEAD_SECONDS, self.transport.abort)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def handle_websocket_upgrade(self) -> None:
        if not issubclass(self.ws_protocol_class or object, WebSocketProtocol):
            super().handle_websocket_upgrade()
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # frames would be written into the unfinished response
            return
        upgrade = sys.exception()
        assert isinstance(upgrade, httptools.HttpParserUpgrade)  # noqa: S101
        early = self._last_read[upgrade.args[0] :]
        self.connections.discard(self)
        nothing: Any = None
        self.parser = nothing  # break the reference cycle, so that refcounting frees both
        scope: dict[str, Any] = {**self.scope}
        try:
            key = handshake.accept_key(scope.pop("method"), scope["http_version"], self.headers)
            path, query = handshake.target(self.url)
        except handshake.BadHandshakeError as error:
            self.transport.write(error.response)
            self.transport.close()
            return
        scope |= {
            "type": "websocket",
            "asgi": {"version": self.asgi_version, "spec_version": "2.4"},
            "scheme": "wss" if self.scheme == "https" else "ws",
            "path": self.root_path + unquote(path.decode("ascii")),
            "raw_path": self.root_path.encode("ascii") + path,
            "query_string": query,
            "subprotocols": handshake.subprotocols(self.headers),
        }
        scheduler = scheduler_of(self.config, self.server_state, self.loop)
        socket = WebSocketProtocol(scheduler, self.transport)
        headers = self.server_state.default_headers
        AsgiSocket(scheduler, socket, scope, key, headers).start(self.app)
        if early:
            socket.data_received(early)
