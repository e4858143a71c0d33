"""The end of a WebSocket on ASGI servers other than `bff serve`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bff.endpoints import websocket
from bff.testing import RunningBff


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
    async with asyncio.timeout(15):
        code = await websocket._read(socket, handler, writing)  # type: ignore[arg-type]
    writing.cancel()
    return code, handler


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


@pytest.mark.parametrize("code", [{}, {"code": None}])
async def test_a_close_frame_without_a_code_is_1005(code: dict[str, Any]) -> None:
    """RFC 6455, section 7.1.5, and ASGI's default."""
    assert (await read({"type": "websocket.disconnect", **code}))[0] == 1005


async def test_a_peer_that_does_not_answer_our_close_frame_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(websocket, "_CLOSE_SECONDS", 0.05)
    assert (await read(is_closed=True))[0] == 1006
