"""The metric of closed connections: few series whatever peers choose, and who closed."""

from __future__ import annotations

import asyncio

import pytest
from bff.connections.close_codes import CloseCode, close_code_label
from bff.server.parser import CLOSE
from bff.testing import RunningBff, until
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.integers() | st.integers(1000, 5000))
def test_only_known_codes_are_labels(code: int) -> None:
    known = code in range(1000, 1016) or code in set(map(int, CloseCode))
    assert close_code_label(code) == (str(code) if known else "other")


def series(bff: RunningBff) -> dict[tuple[str, str], float]:
    """The number of closed connections, by code and side."""
    (metric,) = bff.engine.metrics.connections_closed.collect()
    return {
        (sample.labels["code"], sample.labels["by"]): sample.value
        for sample in metric.samples
        if sample.name.endswith("_total")
    }


async def test_codes_of_peers_do_not_count_as_ours(bff: RunningBff) -> None:
    for code in (1000, 4002, 3000, 3999, 4444, 4999):
        async with bff.browser() as browser:
            await browser.websocket.close(code)
    expected = {("1000", "client"): 1, ("4002", "client"): 1, ("other", "client"): 4}
    await until(lambda: series(bff) == expected)


async def test_an_answer_to_our_close_frame_changes_nothing(bff: RunningBff) -> None:
    host, port = bff.address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Authorization: Bearer %s\r\n\r\n" % bff.token("alice").encode()
    )
    await reader.readuntil(b"hello")
    (protocol,) = [
        one for one in bff.server.server_state.connections if hasattr(one, "pong_overdue")
    ]
    protocol.pong_overdue()
    mask = bytes(4)
    writer.write(header_masked(CLOSE, mask) + (4002).to_bytes(2))
    await reader.read()
    writer.close()
    await until(lambda: series(bff) == {("4004", "server"): 1})


def header_masked(opcode: int, mask: bytes) -> bytes:
    return bytes([0x80 | opcode, 0x80 | 2]) + mask


@pytest.mark.parametrize("code", [CloseCode.REVOKED, CloseCode.SLOW_CONSUMER])
async def test_codes_of_the_server_count_as_ours(bff: RunningBff, code: CloseCode) -> None:
    async with bff.browser("alice") as browser:
        await bff.engine.messenger.close_user("alice", code)
        await browser.websocket.wait_closed()
    await until(lambda: series(bff) == {(str(int(code)), "server"): 1})
