"""HTTP connections that can be cut, and that become WebSockets.

This leans on the inside of uvicorn's HTTP protocol: `SUPPORTED` names the releases whose inside is
known. With any other, `run.py` falls back to uvicorn's own classes.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.connections.transport import ABORT
from app.server import handshake
from app.server.asgi import AsgiSocket
from app.server.protocol import WebSocketProtocol
from app.server.sockets import sockets_of

SUPPORTED: Final = ("0.54.",)

_MOST_HEAD_BYTES: Final = 65_536
"""Of a request that is not complete yet."""


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which also offers `ABORT`, bounds the head of a request, and hands a
    handshake over as it has read it: uvicorn's would write it out and parse it again."""

    _is_in_head = False
    _head_bytes = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > _MOST_HEAD_BYTES:
                fields = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                self.transport.write(handshake.response(fields))
                self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head, self._head_bytes = True, 0
        offered: Any = {ABORT: self.transport.abort}
        self.scope["extensions"] = offered

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        super().on_headers_complete()

    def handle_websocket_upgrade(self) -> None:
        if not issubclass(self.ws_protocol_class or object, WebSocketProtocol):
            super().handle_websocket_upgrade()
            return
        self.connections.discard(self)
        nothing: Any = None
        self.parser = nothing  # it holds us, and we it: who is rid of it needs no collector
        scope: dict[str, Any] = {**self.scope}
        try:
            key = handshake.accept_key(scope.pop("method"), scope["http_version"], self.headers)
        except handshake.BadHandshakeError as error:
            self.transport.write(error.response)
            self.transport.close()
            return
        url = httptools.parse_url(self.url)
        scope |= {
            "type": "websocket",
            "asgi": {"version": self.asgi_version, "spec_version": "2.4"},
            "scheme": "wss" if self.scheme == "https" else "ws",
            "path": self.root_path + unquote(url.path.decode("ascii")),
            "raw_path": self.root_path.encode("ascii") + url.path,
            "query_string": url.query or b"",
            "subprotocols": handshake.subprotocols(self.headers),
        }
        sockets = sockets_of(self.config, self.server_state, self.loop)
        socket = WebSocketProtocol(sockets, self.transport)
        self.transport.set_protocol(socket)
        AsgiSocket(sockets, socket, scope, key).start(self.app)
