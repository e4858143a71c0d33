"""What an ASGI application may send in each state of a WebSocket, and what its client gets."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from bff.connections.transport import EXTENSION

from tests.engine.server.doubles import Frames, frames_of
from tests.engine.server.http_site import Site
from tests.engine.server.test_handshake import request
from tests.engine.server.test_protocol import masked

ACCEPT = {"type": "websocket.accept"}
SEND = {"type": "websocket.send", "text": "hello"}
BYTES = {"type": "websocket.send", "text": None, "bytes": b"b"}
CLOSE = {"type": "websocket.close"}
START = {"type": "websocket.http.response.start", "status": 418}
BODY = {"type": "websocket.http.response.body", "body": b"end"}
PART = {"type": "websocket.http.response.body", "body": b"part,", "more_body": True}


class Scripted(Site):
    """An application that sends these messages and notes what each of them raises."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        super().__init__()
        self.messages = messages
        self.raised: list[str] = []
        self.state.default_headers = [(b"x-every", b"answer")]

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        for message in self.messages:
            try:
                await send(message)
            except Exception as error:
                self.raised.append(type(error).__name__)
            else:
                self.raised.append("")

    async def run(self) -> tuple[int, bytes, bytes]:
        """The status, the head and the body, or frames, that the client gets."""
        await self.receives(request("GET /ws HTTP/1.1"))
        head, _, rest = self.transport.written.partition(b"\r\n\r\n")
        (status,) = re.findall(rb"^HTTP/1.1 (\d+) ", head)
        return int(status), head, rest


@pytest.mark.parametrize(
    ("messages", "raised", "status", "frames"),
    [
        ((ACCEPT, SEND), ("", ""), 101, [(1, b"hello"), (8, b"\x03\xe8")]),
        ((ACCEPT, ACCEPT), ("", "RuntimeError"), 101, [(8, b"\x03\xe8")]),
        ((ACCEPT, START), ("", "RuntimeError"), 101, [(8, b"\x03\xe8")]),
        ((ACCEPT, BODY), ("", "RuntimeError"), 101, [(8, b"\x03\xe8")]),
        ((ACCEPT, CLOSE, SEND), ("", "", "ClientDisconnected"), 101, [(8, b"\x03\xe8")]),
        ((ACCEPT, CLOSE | {"code": None, "reason": None}), ("", ""), 101, [(8, b"\x03\xe8")]),
        ((ACCEPT, CLOSE | {"code": 4321, "reason": "x"}), ("", ""), 101, [(8, b"\x10\xe1x")]),
        ((ACCEPT, CLOSE | {"code": 1005}), ("", "ValueError"), 101, [(8, b"\x03\xe8")]),
        (
            (ACCEPT, SEND | {"text": None, "bytes": b"b"}),
            ("", ""),
            101,
            [(2, b"b"), (8, b"\x03\xe8")],
        ),
        ((SEND,), ("RuntimeError",), 500, None),
        ((BODY,), ("RuntimeError",), 500, None),
        ((), (), 500, None),
        ((CLOSE, ACCEPT), ("", "ClientDisconnected"), 403, None),
        ((START,), ("",), 500, None),
        ((START, ACCEPT, CLOSE, BODY), ("", "RuntimeError", "RuntimeError", ""), 418, None),
    ],
)
async def test_what_is_out_of_order_raises_and_the_client_gets_an_answer_all_the_same(
    messages: tuple[dict[str, Any], ...],
    raised: tuple[str, ...],
    status: int,
    frames: Frames | None,
) -> None:
    site = Scripted(*messages)
    got, head, rest = await site.run()
    assert got == status
    assert tuple(site.raised) == raised
    assert b"\r\nx-every: answer" in head
    if frames is not None:
        assert frames_of(rest) == frames
    else:
        assert site.transport.is_lost


@pytest.mark.parametrize(
    ("messages", "is_reported"),
    [((), True), ((CLOSE,), False), ((ACCEPT,), False), ((START, BODY), False)],
)
async def test_a_handshake_that_is_not_answered_is_reported(
    messages: tuple[dict[str, Any], ...], is_reported: bool, caplog: pytest.LogCaptureFixture
) -> None:
    await Scripted(*messages).run()
    assert ("handshake not answered by the application" in caplog.messages) is is_reported


async def test_an_answer_is_what_the_application_says() -> None:
    denied = Scripted(START | {"headers": [(b"x-why", b"teapot")]}, PART, PART, BODY)
    status, head, body = await denied.run()
    assert (status, body) == (418, b"part,part,end")
    assert b"\r\nx-why: teapot\r\n" in head
    accepted = Scripted(ACCEPT | {"subprotocol": "two", "headers": [(b"x-greeting", b"hello")]})
    _, head, _ = await accepted.run()
    assert b"\r\nx-greeting: hello\r\n" in head
    assert b"\r\nsec-websocket-protocol: two" in head
    _, head, _ = await Scripted(ACCEPT).run()
    assert b"sec-websocket-protocol" not in head


class Detaching(Site):
    """Detaches its socket when two messages have come, of which it has received none."""

    def __init__(self) -> None:
        super().__init__()
        self.received: list[str | bytes] = []
        self.may_detach = asyncio.Event()

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await self.may_detach.wait()
        scope["extensions"][EXTENSION].detach(self.received.append, lambda *_: None)


async def test_a_detached_socket_passes_on_what_came_before_and_outlives_its_endpoint() -> None:
    site = Detaching()
    await site.receives(request("GET /ws HTTP/1.1") + masked(1, b"text") + masked(2, b"bytes"))
    assert len(site.state.tasks) == 1, "the server awaits it when it stops"
    site.may_detach.set()
    await site.settle()
    (socket,) = site.state.connections
    socket.data_received(masked(1, b"later"))
    assert site.received == ["text", b"bytes", "later"]
    assert not site.state.tasks
    assert not site.transport.is_closing()
