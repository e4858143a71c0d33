"""Frames that reach no handler count too: pings, pongs and fragments."""

from __future__ import annotations

import asyncio
import struct
from types import SimpleNamespace

import pytest
from bff.connections.close_codes import CloseCode
from bff.server import parser
from bff.server.parser import BadFrameError, Parser
from bff.testing import RunningBff, until

from tests.engine.server.test_protocol import masked, raw_handshake, read_until

FIRST_FRAGMENT = bytes((1, 0x80, 0, 0, 0, 0))
EMPTY_FRAGMENT = bytes((0, 0x80, 0, 0, 0, 0))
JSON_PING = b'{"type":"ping"}'


@pytest.mark.parametrize(
    ("flood", "code"),
    [
        (masked(9, b"") * 100_000, CloseCode.TOO_MANY_REQUESTS),
        (masked(10, b"x" * 125) * 100_000, CloseCode.TOO_MANY_REQUESTS),
        (FIRST_FRAGMENT + EMPTY_FRAGMENT * 100_000, CloseCode.TOO_MANY_REQUESTS),
        (
            FIRST_FRAGMENT + (masked(9, b"") + EMPTY_FRAGMENT + masked(10, b"")) * 50_000,
            CloseCode.TOO_MANY_REQUESTS,
        ),
        (masked(1, JSON_PING) * 100_000, CloseCode.TOO_MANY_REQUESTS),
        (masked(1, b"") * 100_000, CloseCode.BAD_FRAME),
    ],
    ids=["pings", "pongs", "fragments", "mixed", "messages", "empty messages"],
)
async def test_a_flood_is_closed_and_the_rest_of_it_is_not_parsed(
    bff: RunningBff, flood: bytes, code: CloseCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed = 0
    parse_header = Parser._parse_header

    def count(self: Parser, data: bytes, at: int) -> tuple[int, int]:
        nonlocal parsed
        parsed += 1
        return parse_header(self, data, at)

    monkeypatch.setattr(Parser, "_parse_header", count)
    raw = await raw_handshake(bff)
    await read_until(raw, b"hello")
    sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(raw, flood))
    closed = struct.pack("!H", code)
    assert closed in await read_until(raw, closed)
    await until(lambda: not len(bff.engine.handlers._registry))
    await asyncio.wait({sending})
    raw.close()
    assert parsed < 5 * parser._MAX_SMALL_FRAMES


def test_a_message_in_fragments_and_pings_at_a_usual_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(parser, "time", SimpleNamespace(monotonic=lambda: now))
    fed = Parser(65_536)
    for _ in range(10):
        frames = FIRST_FRAGMENT + EMPTY_FRAGMENT * 200 + masked(9, b"") * 50 + masked(0, b"end")
        assert [one for one in fed.feed(frames) if one[0] == 1] == [(1, b"end")]
        now += 1
    with pytest.raises(BadFrameError) as error:
        list(fed.feed(masked(9, b"") * 601))
    assert error.value.code == CloseCode.TOO_MANY_REQUESTS
