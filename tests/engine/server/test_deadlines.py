"""The deadlines of HTTP connections, by a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.server.http_site import (
    GET,
    HEAD_SECONDS,
    KEEP_ALIVE_SECONDS,
    LARGE,
    Site,
    closed_at_the_end,
    post,
)
from tests.engine.server.test_handshake import request

BODY_SECONDS, ANSWER_SECONDS = 10.0, 30.0
MIN_BODY_BYTES = 10 * 1024
CHUNKED = b"POST /word HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with closed_at_the_end(Site()) as made:
        yield made


async def test_a_head_has_its_time_from_its_first_byte_however_it_drips(site: Site) -> None:
    await site.receives(GET[:9])
    await site.receives(GET[9:])
    assert site.answers == 1
    assert await site.lives_for(2 * HEAD_SECONDS), "it is idle"
    await site.receives(GET[:5])
    assert await site.lives_for(HEAD_SECONDS - 1)
    await site.receives(GET[5:] + GET[:1])
    assert site.answers == 2
    for at in range(1, 11):
        assert await site.lives_for(HEAD_SECONDS / 10 - 0.01)
        await site.receives(GET[at : at + 1])
    assert not await site.lives_for(0.2)
    silent = Site()
    assert await silent.lives_for(HEAD_SECONDS - 1)
    assert not await silent.lives_for(1)


@pytest.mark.parametrize(("size", "lives"), [(MIN_BODY_BYTES - 1, False), (MIN_BODY_BYTES, True)])
async def test_so_much_of_a_body_must_come_between_two_checks(
    site: Site, size: int, lives: bool
) -> None:
    await site.receives(post(10 * MIN_BODY_BYTES))
    for _ in range(2):
        await site.receives(bytes(MIN_BODY_BYTES))
        assert await site.lives_for(BODY_SECONDS)
    await site.receives(bytes(size))
    assert await site.lives_for(BODY_SECONDS - 1)
    assert await site.lives_for(1) is lives


async def test_what_comes_after_a_body_is_not_checked(site: Site) -> None:
    for _ in range(2):
        await site.receives(post(100) + bytes(50))
        assert await site.lives_for(BODY_SECONDS - 1)
        await site.receives(bytes(50))
        assert await site.lives_for(3)
    site.may_answer.clear()
    await site.receives(post(5) + b"12345")
    assert await site.lives_for(1000), "the application takes its time"
    site.may_answer.set()
    await site.settle()
    assert site.bodies == [bytes(100), bytes(100), b"12345"]


async def test_a_body_that_the_application_does_not_read_is_not_the_clients_fault(
    site: Site,
) -> None:
    site.may_answer.clear()
    await site.receives(post(LARGE) + bytes(100_000))
    assert not site.transport.is_reading
    assert await site.lives_for(10 * BODY_SECONDS)
    site.may_answer.set()
    await site.settle()
    assert site.transport.is_reading
    assert not await site.lives_for(2 * BODY_SECONDS)


async def test_a_body_that_is_not_read_because_another_answer_comes_first_has_all_the_time(
    site: Site,
) -> None:
    site.may_answer.clear()
    await site.receives(GET + post(5))
    assert not site.transport.is_reading
    assert await site.lives_for(10 * BODY_SECONDS)
    site.may_answer.set()
    await site.settle()
    await site.receives(b"12345")
    assert site.bodies == [b"", b"12345"]


@pytest.mark.parametrize(
    "input_",
    [
        GET + GET + GET[:9],
        post(100_000) + bytes(100_000) + GET[:9],
        CHUNKED + b"186a0\r\n" + bytes(100_000) + b"\r\n186a0\r\n",
    ],
    ids=["behind another request", "behind a body", "between two chunks"],
)
async def test_a_head_that_is_not_read_is_not_the_clients_fault(site: Site, input_: bytes) -> None:
    site.may_answer.clear()
    await site.receives(input_)
    assert not site.transport.is_reading
    assert await site.lives_for(10 * HEAD_SECONDS)
    site.may_answer.set()
    await site.settle()
    assert site.transport.is_reading
    assert not await site.lives_for(2 * HEAD_SECONDS)


async def test_a_body_has_the_whole_time_after_it_was_not_read(site: Site) -> None:
    site.may_answer.clear()
    await site.receives(post(LARGE) + bytes(100_000))
    assert await site.lives_for(BODY_SECONDS + BODY_SECONDS - 0.1)
    site.may_answer.set()
    await site.settle()
    assert site.transport.is_reading
    assert await site.lives_for(BODY_SECONDS)
    assert not await site.lives_for(BODY_SECONDS)


async def test_a_client_that_waits_for_the_answer_100_is_not_slow(site: Site) -> None:
    site.may_answer.clear()
    await site.receives(post(5)[:-2] + b"Expect: 100-continue\r\n\r\n")
    assert await site.lives_for(10 * BODY_SECONDS)
    assert site.transport.written == b""
    site.may_answer.set()
    await site.settle()
    assert site.transport.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert await site.lives_for(BODY_SECONDS - 1)
    await site.receives(b"12345")
    assert site.bodies == [b"12345"]


class LargeAnswer(Site):
    """Closes the connection after an answer, without having received the body."""

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        close = (b"connection", b"close")
        await send({"type": "http.response.start", "status": 200, "headers": [close]})
        await send({"type": "http.response.body", "body": bytes(LARGE)})


async def test_the_rest_of_a_body_is_not_waited_for_after_the_last_answer() -> None:
    async with closed_at_the_end(LargeAnswer()) as site:
        site.transport.is_stalled = True
        await site.receives(post(LARGE) + bytes(10))
        assert site.transport.is_closing()
        for _ in range(5):
            assert await site.lives_for(ANSWER_SECONDS - 1), "the client reads it"
            site.transport.read(1000)
        assert not await site.lives_for(2 * ANSWER_SECONDS)


class Failing(Site):
    """Fails after a part of its answer."""

    error: Exception | None = RuntimeError("a bug")

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("error", [RuntimeError("a bug"), None], ids=repr)
async def test_a_part_of_an_answer_is_not_waited_for_without_end(error: Exception | None) -> None:
    async with closed_at_the_end(Failing()) as site:
        site.error = error
        site.transport.is_stalled = True
        await site.receives(GET)
        assert site.transport.is_closing()
        assert await site.lives_for(ANSWER_SECONDS - 1)
        assert not await site.lives_for(1)


async def test_an_idle_connection_is_closed_after_its_time(site: Site) -> None:
    for _ in range(2):
        await site.receives(GET)
        assert await site.lives_for(KEEP_ALIVE_SECONDS - 1)
    assert not await site.lives_for(1)


@pytest.mark.parametrize("lines", [b"\n", b"\r\n", b"\r\n" * 100])
async def test_empty_lines_do_not_stop_the_time_of_a_head(site: Site, lines: bytes) -> None:
    """A parser skips them before a request (RFC 9112, section 2.2)."""
    await site.receives(lines)
    assert await site.lives_for(HEAD_SECONDS - 1)
    await site.receives(lines + GET)
    assert site.answers == 1
    await site.receives(lines)
    assert await site.lives_for(KEEP_ALIVE_SECONDS - 1)
    assert not await site.lives_for(1)
    silent = Site()
    await silent.receives(lines)
    assert not await silent.lives_for(HEAD_SECONDS)


class AtOnce(Site):
    """Answers before it has received the body."""

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def test_a_connection_is_idle_after_a_body_whose_request_was_answered_before() -> None:
    async with closed_at_the_end(AtOnce()) as site:
        await site.receives(post(8) + b"half")
        assert site.answers == 1
        await site.receives(b"half")
        assert await site.lives_for(KEEP_ALIVE_SECONDS - 1)
        assert not await site.lives_for(1)


@pytest.mark.parametrize("half_closes", [False, True])
async def test_the_time_of_an_answer_begins_again_whenever_the_client_reads(
    site: Site, half_closes: bool
) -> None:
    large = GET.replace(b"word", b"large")
    site.transport.is_stalled = True
    await site.receives(large)
    for _ in range(3):
        assert await site.lives_for(ANSWER_SECONDS - 1)
        site.transport.read(1)
        assert await site.lives_for(1)
    site.transport.read(LARGE)
    site.transport.read(LARGE)
    assert await site.lives_for(2 * ANSWER_SECONDS), "nothing waits"
    site.transport.is_stalled = False
    await site.receives(GET)
    site.transport.is_stalled = True
    await site.receives(large if not half_closes else GET)
    if half_closes:
        site.protocol.eof_received()
    assert await site.lives_for(ANSWER_SECONDS - 1)
    assert not await site.lives_for(1)


async def test_a_later_and_larger_answer_is_not_compared_with_an_earlier_one(site: Site) -> None:
    site.transport.is_stalled = True
    await site.receives(GET)
    assert await site.lives_for(ANSWER_SECONDS - 1)
    site.transport.read(LARGE)
    await site.receives(GET.replace(b"word", b"large"))
    assert await site.lives_for(ANSWER_SECONDS - 1)
    site.transport.read(1)
    assert await site.lives_for(ANSWER_SECONDS - 1)


async def test_an_answer_that_has_grown_is_not_compared_with_its_beginning() -> None:
    async with closed_at_the_end(Streaming()) as site:
        site.transport.is_stalled = True
        await site.receives(GET)
        for size in (10_000, LARGE):
            site.sizes.put_nowait(size)
            await site.settle()
            site.protocol.eof_received()  # it begins to watch
        assert await site.lives_for(ANSWER_SECONDS - 1)
        site.transport.read(LARGE // 2)
        assert await site.lives_for(ANSWER_SECONDS - 1)
        site.sizes.put_nowait(0)


class Streaming(Site):
    """Sends a part of an answer that has no end for each size."""

    def __init__(self) -> None:
        self.sizes: asyncio.Queue[int] = asyncio.Queue()
        super().__init__()

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while size := await self.sizes.get():
            await send({"type": "http.response.body", "body": bytes(size), "more_body": True})


async def test_the_next_part_of_an_answer_is_not_compared_with_one_that_was_read() -> None:
    async with closed_at_the_end(Streaming()) as site:
        site.transport.is_stalled = True
        await site.receives(GET)
        for size in (LARGE, 2 * LARGE):
            site.sizes.put_nowait(size)
            await site.settle()
            assert site.transport.is_paused
            assert await site.lives_for(ANSWER_SECONDS - 1)
            site.transport.read(3 * LARGE)
        site.sizes.put_nowait(0)


async def test_with_a_configuration_of_uvicorn_an_idle_connection_is_closed_at_once(
    site: Site,
) -> None:
    site.protocol.config = uvicorn.Config(site.app, log_config=None)
    site.protocol.shutdown()
    assert not await site.lives_for(0)


@pytest.mark.parametrize("requests", [0, 1])
async def test_a_server_that_stops_waits_for_one_more_request_of_an_idle_connection(
    requests: int,
) -> None:
    for comes in (False, True):
        site = Site(last_request_seconds=2)
        for _ in range(requests):
            await site.receives(GET)
        site.protocol.shutdown()
        assert await site.lives_for(1.5)
        if comes:
            site.may_answer.clear()
            await site.receives(GET)
            assert await site.lives_for(10), "it is being answered"
            site.may_answer.set()
        assert not await site.lives_for(0.5)
        assert site.answers == requests + comes
        assert site.transport.written.count(b"connection: close") == comes
        assert not site.loop.timers


async def test_a_server_that_stops_accepts_no_socket_on_an_idle_connection() -> None:
    """Nothing would close it: the sockets that it had were closed before."""
    async with closed_at_the_end(Site(last_request_seconds=2)) as site:
        site.protocol.shutdown()
        await site.receives(request())
        assert site.scope == {}
        assert site.transport.written.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert site.transport.is_lost


@pytest.mark.parametrize("seconds", [0.0, 2.0])
async def test_a_server_that_stops_answers_the_request_that_it_has(seconds: float) -> None:
    site, idle = Site(seconds), Site(seconds)
    site.may_answer.clear()
    await site.receives(GET)
    for one in (site, idle):
        one.protocol.shutdown()
    assert not await idle.lives_for(seconds)
    assert await site.lives_for(10)
    site.may_answer.set()
    await site.settle()
    assert site.answers == 1
    assert b"connection: close" in site.transport.written
    assert site.transport.is_lost


DECLINED = b"POST /b HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n"
INPUTS = [
    GET,
    GET.replace(b"word", b"large"),
    post(3) + b"abc",
    DECLINED + b"Content-Length: 5\r\n\r\nworld",
    CHUNKED + b"3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n",
    post(20_000)[:-2] + b"Expect: 100-continue\r\n\r\n" + bytes(20_000),
    b"CONNECT a:1 HTTP/1.1\r\n\r\n",
    b"\r\n",
    b"rubbish\r\n\r\n",
]
PARTS = st.builds(
    lambda whole, share: whole[: max(1, int(share * len(whole)))],
    st.sampled_from(INPUTS),
    st.sampled_from([0.1, 0.5, 0.9, 1.0, 1.0, 1.0]),
)


@given(parts=st.lists(PARTS, max_size=5), is_stalled=st.booleans(), answers_late=st.booleans())
@settings(max_examples=100, deadline=None)
def test_whatever_a_client_sends_its_connection_ends_when_it_sends_no_more(
    parts: list[bytes], is_stalled: bool, answers_late: bool
) -> None:
    async def run() -> None:
        async with closed_at_the_end(Site(is_stalled=is_stalled)) as site:
            if answers_late:
                site.may_answer.clear()
            for part in parts:
                if not site.transport.is_lost:
                    await site.receives(part)
            await site.lives_for(20)
            site.may_answer.set()
            await site.settle()
            await site.lives_for(KEEP_ALIVE_SECONDS + 10 * ANSWER_SECONDS)
            assert site.transport.is_lost

    asyncio.run(run())
