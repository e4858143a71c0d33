"""HTTP connections that can be aborted and upgraded to WebSockets.

This depends on private parts of uvicorn's HTTP protocol class (`bff/COUPLINGS.md`). `SUPPORTED`
lists the releases it was checked with; with any other, `run.py` falls back to uvicorn's classes.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from bff.connections.transport import ABORT, PEER_TIMEOUT
from bff.server import handshake
from bff.server.admission import REFUSAL, Admission, admission_of
from bff.server.asgi import AsgiSocket
from bff.server.deadlines import DeadlineProtocol
from bff.server.flush_scheduler import scheduler_of
from bff.server.protocol import WebSocketProtocol

SUPPORTED: Final = ("0.54.",)

_MAX_HEAD_BYTES: Final = 65_536
"""Bytes of an incomplete request head (or of trailers), not counting the piece in which
it began."""
_SPARE_HEAD_SECONDS: Final = 2.0
"""How long a head may take on a connection beyond `MAX_CONNECTIONS`."""
_MAX_PIPELINED: Final = 16
"""Requests that may wait for the answer to an earlier request of the connection. Checked between
two pieces of input."""
_TEXT: Final = [(b"content-type", b"text/plain; charset=utf-8")]
_PIECE_BYTES: Final = 4096
"""Input is parsed in pieces of this size, because the parser cannot be stopped inside one."""


class _Flow(FlowControl):
    """uvicorn's flow control, but it does not resume reading while input waits to be parsed."""

    is_held = False

    def resume_reading(self) -> None:
        if not self.is_held:
            super().resume_reading()


class HttpProtocol(DeadlineProtocol):
    """uvicorn's HTTP protocol with these additions.

    * The extensions `ABORT` and `PEER_TIMEOUT` in the scope of each request.
    * Limits on the size and time of a request head and of trailers.
    * Limits on pipelined requests and on the connections of the server.
    * A WebSocket upgrade passes the parsed request on. uvicorn would serialise it, and its
      WebSocket protocol would parse it a second time.
    * A request that asks for another protocol is served as any other. For uvicorn it would have no
      body, and its body would be a request.
    * Trailers are no headers.
    """

    flow: _Flow
    _from_piece: bytes | memoryview = b""
    """The part of the input that begins with the piece which is being parsed."""
    _piece_size = 0
    _unparsed = b""
    """Input that waits until fewer pipelined requests wait. Reading is paused meanwhile."""
    _is_in_head = False
    _head_bytes = 0
    _is_declined = False
    """Whether the latest head asks for a protocol that this server does not speak."""
    _declined_at = 0
    """Where in the piece that head ends; 0 once it is parsed again."""
    _beyond: Admission | None = None
    """Set on a connection beyond the limit of the server."""
    _running: RequestResponseCycle | None = None
    """The request that is being answered; `cycle` is the latest one, which may wait behind it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        admission = admission_of(self.config, self.server_state)
        if len(self.connections) >= admission.limit:
            if len(self.connections) >= admission.hard_limit:
                self.transport = transport
                self._refuse(admission)
                return
            self._beyond = admission
            self._answers_once = True
            self._head_seconds = _SPARE_HEAD_SECONDS
            self.app = admission.only_probes(self.app)
        super().connection_made(transport)
        self.flow = _Flow(transport)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unparsed = b""
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def _refuse(self, admission: Admission) -> None:
        admission.refused()
        self.transport.write(REFUSAL)
        self.transport.close()
        self._watch_answer()

    def send_400_response(self, msg: str) -> None:
        """Answer input that is not an HTTP request. uvicorn's answer lacks our security headers."""
        self._refuse_input(handshake.response(HTTPStatus.BAD_REQUEST, _TEXT, msg.encode()))

    def _refuse_input(self, response: bytes) -> None:
        """Answer input that is not parsed any further, and close. If an earlier request has no
        complete response yet, abort instead: the client would take this one for its response."""
        cycle = self.cycle
        if self.transport.is_closing():
            return
        if (
            cycle is not None
            and not cycle.response_complete
            and (self.pipeline or cycle.response_started or not cycle.more_body)
        ):
            self.transport.abort()
        else:
            self.transport.write(response)
            self.transport.close()

    # Input

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():  # TLS delivers input after a close
            return
        if self._unparsed:  # it was received before the pause took effect
            self._unparsed += data
            return
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        """Parse input until its end, or until too many pipelined requests wait."""
        if len(data) <= _PIECE_BYTES and len(self.pipeline) < _MAX_PIPELINED:
            self._parse_piece(data, data)
        else:
            view = memoryview(data)
            for at in range(0, len(data), _PIECE_BYTES):
                if len(self.pipeline) >= _MAX_PIPELINED:
                    self._unparsed = data[at:]
                    self.flow.is_held = True
                    self.flow.pause_reading()
                    break
                self._parse_piece(data[at : at + _PIECE_BYTES], view[at:])
                if self.parser is None or self.transport.is_closing():
                    break
        self._from_piece = b""
        if self._is_in_head and not self._unparsed:
            self._start_head_timer()
        elif self.cycle is not None or self.transport.is_closing():
            self._stop_head_timer()
            self._wait_for_request()
        # Else only empty lines have come, and the time of the first head goes on.
        if self._is_in_body and self._body_timer is None:
            self._start_body_timer()
        if self.transport.is_closing():
            self._watch_answer()

    def _parse_piece(self, piece: bytes, from_piece: bytes | memoryview) -> None:
        self._from_piece, self._piece_size = from_piece, len(piece)
        super().data_received(piece)
        if at := self._declined_at:
            self._declined_at = 0
            self._parse_without_upgrade()
            if at < len(piece) and not self.transport.is_closing():
                self._parse_piece(piece[at:], from_piece[at:])
            return
        if self._is_in_head:
            self._head_bytes += len(piece)
            if self._head_bytes > _MAX_HEAD_BYTES:
                too_large = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                self._refuse_input(handshake.response(too_large))

    def _unsupported_upgrade_warning(self) -> None:
        super()._unsupported_upgrade_warning()
        upgrade = sys.exception()
        assert isinstance(upgrade, httptools.HttpParserUpgrade)  # noqa: S101
        self._declined_at = upgrade.args[0]

    def _parse_without_upgrade(self) -> None:
        """Parse the latest head again without `Upgrade`, which a server may ignore (RFC 9110,
        section 7.8). The parser takes what follows an upgrade for another protocol, even a body."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":  # an upgrade in itself
            self._refuse_input(handshake.response(HTTPStatus.NOT_IMPLEMENTED))
            return
        fields = [b"%s: %s\r\n" % each for each in self.headers if each[0] != b"upgrade"]
        super().data_received(
            b"%s %s HTTP/%s\r\n%s\r\n" % (method, self.url, version, b"".join(fields))
        )

    def _parse_rest(self) -> None:
        """Parse the input that has waited for pipelined requests."""
        rest, self._unparsed = self._unparsed, b""
        if not rest or self.parser is None or self.transport.is_closing():
            return
        self.flow.is_held = False
        self._parse(rest)
        if not self._unparsed and not self.pipeline:
            self.flow.resume_reading()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_started()
        offered: Any = {ABORT: self.transport.abort, PEER_TIMEOUT: self._set_peer_timeout}
        self.scope["extensions"] = offered

    def on_headers_complete(self) -> None:
        self._is_in_head, self._is_in_body = False, True
        self._is_declined = self.parser.should_upgrade() and not self._should_upgrade()
        if self._is_declined:
            return
        super().on_headers_complete()
        if not self.parser.should_upgrade():
            self.headers = []  # for the trailers: the other list is in the scope
        if self._answers_once and self.cycle is not None:
            self.cycle.keep_alive = False

    def on_chunk_header(self) -> None:
        """The data of a chunk follows, or after the last one the trailers, which the parser buffers
        like a head."""
        self._head_started()

    def on_body(self, body: bytes) -> None:
        self._is_in_head = False
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_in_head = self._is_in_body = False
        self._stop_body_timer()
        if not self._is_declined:
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle

        async def watched(scope: Any, receive: Any, send: Any) -> None:
            try:
                await app(scope, receive, send)
            finally:
                if not cycle.response_complete:  # uvicorn will close the transport
                    self.loop.call_soon(self._watch_last_answer)

        super()._start_asgi_task(cycle, watched)

    def _watch_last_answer(self) -> None:
        if self in self.connections:
            self._watch_answer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # `_check_answer` compares the bytes that wait for the client with those that waited when
        # the timer was started. This response has just been added, so the timer starts again.
        self._stop_answer_timer()
        self._watch_answer()
        if self._unparsed and len(self.pipeline) < _MAX_PIPELINED:
            self.loop.call_soon(self._parse_rest)

    def _set_peer_timeout(self, seconds: float) -> None:
        """Linux only (tcp(7)); a UNIX socket has no such option."""
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            with suppress(OSError):
                self.transport.get_extra_info("socket").setsockopt(
                    socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000)
                )

    def _head_started(self) -> None:
        self._stop_head_timer()
        self._is_in_head, self._head_bytes = True, -self._piece_size

    def handle_websocket_upgrade(self) -> None:
        self._stop_deadlines()
        if not issubclass(self.ws_protocol_class or object, WebSocketProtocol):
            super().handle_websocket_upgrade()
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # frames would be written into the unfinished response
            return
        upgrade = sys.exception()
        assert isinstance(upgrade, httptools.HttpParserUpgrade)  # noqa: S101
        early = bytes(self._from_piece[upgrade.args[0] :])
        self.connections.discard(self)
        nothing: Any = None
        # Both refer back to this object: with them, only the garbage collector could free it.
        self.parser = nothing
        del self.scope["extensions"]
        if self._beyond is not None:
            self._refuse(self._beyond)
            return
        if self._answers_once:  # the server stops, and has closed its sockets
            self.transport.write(handshake.response(HTTPStatus.SERVICE_UNAVAILABLE))
            self.transport.close()
            return
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
        websocket = WebSocketProtocol(scheduler, self.transport)
        headers = self.server_state.default_headers
        AsgiSocket(scheduler, websocket, scope, key, headers).start(self.app)
        if early:
            websocket.data_received(early)
