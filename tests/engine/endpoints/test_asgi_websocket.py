"""The handshake of a WebSocket on `bff serve`, and its end on other ASGI servers."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from types import SimpleNamespace
from typing import Any

import pytest
from bff.auth.caller import Caller
from bff.connections.close_codes import CloseCode
from bff.connections.positions import Position
from bff.connections.transport import EXTENSION
from bff.endpoints import websocket
from bff.problems import SocketRefused
from bff.testing import RunningBff, until
from starlette.websockets import WebSocket


@pytest.fixture
def ws() -> str:
    return "websockets-sansio"


class Socket:
    """A WebSocket from which these messages of ASGI come; then nothing."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self._messages = list(messages)

    async def receive(self) -> dict[str, Any]:
        if not self._messages:
            await asyncio.Event().wait()
        return self._messages.pop(0)


class Handler:
    def __init__(self) -> None:
        self.received: list[str | bytes] = []

    def receive(self, frame: str | bytes) -> None:
        self.received.append(frame)


async def read(*messages: dict[str, Any], is_closed: bool = False) -> tuple[int, Handler]:
    """The close code, and what the handler got. `is_closed`: we have sent our close frame."""
    handler, socket = Handler(), Socket(*messages)
    closed = asyncio.Event()
    if is_closed:
        closed.set()
    writing = asyncio.create_task(closed.wait())
    try:
        async with asyncio.timeout(15):
            code = await websocket._read(socket, handler, writing)  # type: ignore[arg-type]
    finally:
        writing.cancel()
    await no_other_task()
    return code, handler


async def no_other_task() -> None:
    this = asyncio.current_task()
    await until(lambda: asyncio.all_tasks() == {this})


async def test_the_time_for_a_close_frame_is_no_limit_of_the_connection(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "_CLOSE_SECONDS", 0)
    async with bff.browser() as browser:
        for text in ("one", "two"):
            assert (await browser.request("echo", "say", text=text))["result"]["text"] == text


async def test_frames_of_both_kinds_are_passed_on() -> None:
    code, handler = await read(
        {"type": "websocket.receive", "text": "a", "bytes": None},
        {"type": "websocket.receive", "text": None, "bytes": b"b"},
        {"type": "websocket.receive", "bytes": b"c"},
        {"type": "websocket.receive", "text": ""},
        {"type": "websocket.disconnect", "code": 4001},
    )
    assert (code, handler.received) == (4001, ["a", b"b", b"c", ""])


class Handlers:
    """Records which connections were opened, admitted and closed."""

    def __init__(self) -> None:
        self.opened: list[dict[str, Any]] = []
        self.admitted: list[dict[str, Position]] = []
        self.closed: list[int] = []

    def open(self, _transport: object, _caller: Caller, **facts: Any) -> Handler:
        self.opened.append(facts)
        return Handler()

    async def admit(self, _handler: Handler, since: dict[str, Position]) -> None:
        self.admitted.append(since)

    def on_closed(self, _handler: Handler, code: int) -> None:
        self.closed.append(code)


class Detachable:
    """The WebSocket of `bff serve`, which the client may have closed already."""

    def __init__(self, is_open: bool) -> None:
        self._is_open = is_open

    def detach(self, *_: object) -> bool:
        return self._is_open


@pytest.mark.parametrize("server", ["bff serve", "bff serve, too late", "another"])
@pytest.mark.parametrize(
    ("query", "since"),
    [
        ("", {}),
        ("ticket=x", {}),
        ("since=user/a/1,all/b/2", {"user": Position("a", 1), "all": Position("b", 2)}),
        ("since=nonsense", None),
        ("since=user/a/1,topic:prices/a/1", None),
    ],
)
async def test_a_handshake_is_admitted_unless_the_client_has_gone(
    query: str, since: dict[str, Position] | None, server: str
) -> None:
    handlers, sent = Handlers(), list[str]()
    app = SimpleNamespace(state=SimpleNamespace(bff=SimpleNamespace(handlers=handlers)))
    scope = {
        "type": "websocket",
        "app": app,
        "client": ("192.0.2.7", 1),
        "headers": [(b"user-agent", b"test")],
        "query_string": query.encode(),
        "extensions": {} if server == "another" else {EXTENSION: Detachable(server == "bff serve")},
    }
    received = iter(({"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 4001}))

    async def receive() -> dict[str, Any]:
        return next(received)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message["type"])

    serving = websocket.serve(
        WebSocket(scope, receive, send), Caller("ann", "Ann", frozenset(), "", 2**31)
    )
    if since is None:
        with pytest.raises(SocketRefused) as refused:
            await serving
        assert (refused.value.code, sent) == (CloseCode.BAD_FRAME, [])
        return
    await serving
    assert sent == ["websocket.accept"]
    assert handlers.opened == [{"address": "192.0.2.7", "user_agent": "test"}]
    assert handlers.admitted == ([] if server == "bff serve, too late" else [since])
    closed = {"bff serve": [], "bff serve, too late": [CloseCode.ABNORMAL], "another": [4001]}
    assert handlers.closed == closed[server]
    await no_other_task()


@pytest.mark.parametrize("code", [{}, {"code": None}])
async def test_a_close_frame_without_a_code_is_1005(code: dict[str, Any]) -> None:
    """RFC 6455, section 7.1.5, and ASGI's default."""
    assert (await read({"type": "websocket.disconnect", **code}))[0] == 1005


async def test_a_peer_that_does_not_answer_our_close_frame_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(websocket, "_CLOSE_SECONDS", 0.05)
    assert (await read(is_closed=True))[0] == 1006
    with pytest.raises(TimeoutError):  # the server stops
        await asyncio.wait_for(read(), 0.05)
    await no_other_task()
