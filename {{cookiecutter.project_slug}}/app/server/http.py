"""HTTP connections that can be cut.

ASGI can only end a response, and the end waits behind what the peer does not read, without limit.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.connections.transport import ABORT


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which also offers `ABORT`."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        offered: Any = {ABORT: self.transport.abort}
        self.scope["extensions"] = offered
