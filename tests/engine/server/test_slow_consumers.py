"""A client that stops reading uses at most `MAX_QUEUE_BYTES`, is closed with 4002, and does not
delay others.

Tested with our WebSocket protocol and with uvicorn's, whose sockets stay in their ASGI task.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import websockets
from bff.connections.close_codes import CloseCode
from bff.connections.connection import Connection
from bff.settings import Settings
from bff.testing import Browser, RunningBff, until

USER = "sam"
KIB = 1024
TEXT = "z" * 32 * KIB
MESSAGE = len(TEXT) + KIB
"""Upper bound of the size of an encoded message."""


@pytest.fixture(params=[None, "websockets-sansio"], ids=["detached", "asgi"])
def ws(request: pytest.FixtureRequest) -> str | None:
    value: str | None = request.param
    return value


async def send(bff: RunningBff, number: int, *users: str) -> None:
    await bff.engine.messenger.to_users(users, "bulk", {"number": number, "text": TEXT})


def connection_of(bff: RunningBff, user_id: str) -> Connection:
    (connection,) = bff.engine.handlers._registry.by_user(user_id)
    assert isinstance(connection, Connection)
    return connection


@asynccontextmanager
async def stalled(bff: RunningBff) -> AsyncIterator[Browser]:
    """A socket of `USER` whose client does not read until the end of the block."""
    async with bff.browser(USER, max_queue=None) as browser:
        browser.websocket.transport.pause_reading()
        yield browser
        browser.websocket.transport.resume_reading()


async def send_until_closing(bff: RunningBff, settings: Settings, *others: str) -> int:
    """Send until the socket of `USER` is being closed; return how many messages that took."""
    connection = connection_of(bff, USER)
    number = 0
    async with asyncio.timeout(60):
        while connection.close_code is None:
            await send(bff, number, USER, *others)
            number += 1
            assert connection.transport.buffered <= settings.max_queue_bytes + MESSAGE
    assert connection.close_code == CloseCode.SLOW_CONSUMER
    return number


async def test_another_client_gets_every_message_in_order(
    bff: RunningBff, settings: Settings
) -> None:
    async with bff.browser("nora") as nora, stalled(bff):
        received: list[int] = []

        async def read() -> None:
            while True:
                received.append((await nora.event("bulk"))["event"]["number"])

        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(read())
            sent = await send_until_closing(bff, settings, "nora")
            for number in range(sent, sent + 20):
                await send(bff, number, USER, "nora")
            await until(lambda: len(received) == sent + 20)
            reading.cancel()
    assert received == list(range(sent + 20))


async def test_a_client_that_reads_again_at_once_gets_the_close_code(
    bff: RunningBff, settings: Settings
) -> None:
    async with stalled(bff) as sam:
        await send_until_closing(bff, settings)
        sam.websocket.transport.resume_reading()
        assert await sam.closed() == CloseCode.SLOW_CONSUMER


async def test_a_client_that_never_reads_again_is_removed(
    bff: RunningBff, settings: Settings
) -> None:
    async with stalled(bff):
        await send_until_closing(bff, settings)

        async def is_removed() -> bool:
            here = bff.engine.handlers._registry.by_user(USER)
            return not here and not await bff.engine.index.connections_of(USER)

        await until(is_removed)
    closed = {"code": str(int(CloseCode.SLOW_CONSUMER)), "by": "server"}
    registry = bff.engine.metrics.registry
    assert registry.get_sample_value("bff_connections_closed_total", closed) == 1


async def test_a_client_that_reconnects_gets_exactly_the_missed_messages(
    bff: RunningBff, settings: Settings
) -> None:
    received: list[int] = []
    async with stalled(bff) as sam:
        position = sam.hello["positions"]["user"]
        sent = await send_until_closing(bff, settings)
        sam.websocket.transport.resume_reading()
        with suppress(websockets.ConnectionClosed):
            while True:
                message = await sam.event("bulk")
                received.append(message["event"]["number"])
                position = message["id"]
    missed = sent - len(received)
    assert missed > 0
    await send(bff, sent, USER)
    async with bff.browser(USER, query=f"?since={position}") as sam:
        assert sam.hello["recovered"] == {"user": True}
        received += [(await sam.event("bulk"))["event"]["number"] for _ in range(missed + 1)]
    assert received == list(range(sent + 1))
