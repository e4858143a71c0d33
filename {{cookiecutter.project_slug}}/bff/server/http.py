"""HTTP connections that can be cut, and that become WebSockets.

This leans on the inside of uvicorn's HTTP protocol: `SUPPORTED` names the releases whose inside is
known. With any other, `run.py` falls back to uvicorn's own classes.
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

_MOST_HEAD_BYTES: Final = 65_536
"""Of a request that is not complete yet, beyond what its first read brought."""
_HEAD_SECONDS: Final = 30.0
"""How long a client may take to begin, and for each head."""


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which also offers `ABORT`, bounds the head of a request, and hands a
    handshake over as it has read it: uvicorn's would write it out and parse it again."""

    _read = b""
    _is_in_head = False
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._limit_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unlimit_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._read = data
        super().data_received(data)
        self._read = b""
        if not self._is_in_head:
            self._unlimit_head()
            return
        self._limit_head()
        self._head_bytes += len(data)
        if self._head_bytes > _MOST_HEAD_BYTES:
            fields = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            self.transport.write(handshake.response(fields))
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_begins()
        offered: Any = {ABORT: self.transport.abort}
        self.scope["extensions"] = offered

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """A chunk follows; or, after the last one, trailers, which the parser keeps like a head."""
        self._head_begins()

    def on_body(self, body: bytes) -> None:
        self._is_in_head = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_head = False
        super().on_message_complete()

    def _head_begins(self) -> None:
        self._unlimit_head()
        self._is_in_head, self._head_bytes = True, -len(self._read)

    def _limit_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(_HEAD_SECONDS, self.transport.abort)

    def _unlimit_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def handle_websocket_upgrade(self) -> None:
        if not issubclass(self.ws_protocol_class or object, WebSocketProtocol):
            super().handle_websocket_upgrade()
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # an answer is under way, and frames would come into it
            return
        upgrade = sys.exception()
        assert isinstance(upgrade, httptools.HttpParserUpgrade)  # noqa: S101
        early = self._read[upgrade.args[0] :]
        self.connections.discard(self)
        nothing: Any = None
        self.parser = nothing  # it holds us, and we it: who is rid of it needs no collector
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
