"""Requests, upgrades and rubbish in pieces of any size, on one connection that the test feeds."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.server.doubles import frames_of
from tests.engine.server.http_site import (
    GET,
    HEAD_SECONDS,
    KEEP_ALIVE_SECONDS,
    Site,
    closed_at_the_end,
    post,
)
from tests.engine.server.test_handshake import request
from tests.engine.server.test_protocol import masked

PIECE, MAX_HEAD, MAX_PIPELINED = 4096, 65_536, 16
HEAD_OF_WEBSOCKET = request("GET /s%20ocket?a=1 HTTP/1.1", Sec_WebSocket_Protocol="one, two")


class Echo(Site):
    """Answers a request with its path and the size of its body, and a message with itself."""

    code: int | None = None
    """With which the client closed its WebSocket."""

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await super().app(scope, receive, send)
            return
        self.scope = scope
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})
        self.code = message["code"]


class OneByOne(Site):
    """Answers as many requests as the test lets it."""

    def __init__(self) -> None:
        self.answered = asyncio.Semaphore(0)
        super().__init__()

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        await self.answered.acquire()
        await super().app(scope, receive, send)


@pytest.fixture
async def site() -> AsyncIterator[Echo]:
    async with closed_at_the_end(Echo()) as made:
        yield made


def status_of(site: Site) -> int:
    """Of the last answer."""
    return int(re.findall(rb"HTTP/1.1 (\d+) ", site.transport.written)[-1])


@pytest.mark.parametrize("kind", ["first", "later", "trailers"])
async def test_a_head_is_refused_beyond_its_limit_and_not_before(site: Echo, kind: str) -> None:
    """The read in which it begins does not count."""
    begin = GET[:-2]
    if kind == "later":
        begin = post(PIECE - 200) + bytes(PIECE - 200) + begin
    elif kind == "trailers":
        head = b"POST /word HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        await site.receives(head + b"1\r\nx\r\n")
        begin = b"0\r\n"
    await site.receives(begin + b"X: ")
    answers = site.answers
    for _ in range(MAX_HEAD // PIECE):
        await site.receives(b"x" * PIECE)
    assert site.transport.written.count(b"HTTP/1.1 ") == answers == (kind == "later")
    await site.receives(b"x")
    assert status_of(site) == 431
    assert site.transport.written.endswith(b"connection: close\r\n\r\n")
    assert site.transport.is_lost


async def test_a_chunk_of_a_body_may_be_larger_than_a_head(site: Echo) -> None:
    head = b"POST /word HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = b"x" * (MAX_HEAD + 2 * PIECE)
    await site.receives(head + b"%x\r\n" % len(body))
    for at in range(0, len(body), PIECE):
        await site.receives(body[at : at + PIECE])
    await site.receives(b"\r\n0\r\n\r\n")
    assert site.bodies == [body]


@pytest.mark.parametrize("size", [100, PIECE + 1])
async def test_an_idle_connection_keeps_nothing_of_what_it_has_received(
    site: Echo, size: int
) -> None:
    data = post(size) + bytes(size)
    before = sys.getrefcount(data)
    site.protocol.data_received(data)
    await site.settle()
    assert site.answers == 1
    assert sys.getrefcount(data) == before


@settings(derandomize=True, deadline=None, max_examples=15)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 100, 5000]), min_size=1, max_size=40),
    cuts=st.lists(st.sampled_from([300, 4095, 4096, 4097, 9000]), min_size=1, max_size=5),
    chunked=st.booleans(),
    holds_back=st.booleans(),
)
def test_pipelined_requests_are_answered_in_order_however_they_are_cut(
    sizes: list[int], cuts: list[int], chunked: bool, holds_back: bool
) -> None:
    def encoded(size: int) -> bytes:
        if not chunked:
            return post(size) + b"x" * size
        chunk = b"%x\r\n%s\r\n" % (size, b"x" * size) if size else b""
        head = b"POST /word HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        return head + chunk + b"0\r\nX-Trailer: y\r\n\r\n"

    async def run() -> None:
        site = Site()
        if holds_back:
            site.may_answer.clear()
        data, at, turn = b"".join(encoded(size) for size in sizes), 0, 0
        while at < len(data):
            if not site.transport.is_reading:
                site.may_answer.set()
                await site.settle()
            cut = cuts[turn % len(cuts)]
            await site.receives(data[at : at + cut])
            assert len(site.protocol.pipeline) <= MAX_PIPELINED + PIECE // len(post(0))
            at, turn = at + cut, turn + 1
        site.may_answer.set()
        for _ in sizes:
            await site.settle()
        assert [len(body) for body in site.bodies] == sizes
        assert site.answers == len(sizes)
        assert site.transport.is_reading
        assert not site.transport.is_closing()

    asyncio.run(run())


@pytest.mark.parametrize("count", [MAX_PIPELINED + 1, 1000])
async def test_requests_beyond_the_limit_wait_unread(site: Echo, count: int) -> None:
    """`MAX_PIPELINED` wait behind the first one."""
    site.may_answer.clear()
    await site.receives(GET * count)
    assert not site.transport.is_reading
    held = len(site.protocol.pipeline)
    assert MAX_PIPELINED <= held <= MAX_PIPELINED + PIECE // len(GET)
    await site.receives(GET * 10)  # they were received before the pause took effect
    assert len(site.protocol.pipeline) == held
    assert await site.lives_for(2 * HEAD_SECONDS), "the client has sent whole heads"
    site.may_answer.set()
    for _ in range(100):
        await site.settle()
    assert site.answers == count + 10
    assert site.transport.is_reading
    assert site.transport.resumed == 1, "nothing more was read while input waited"
    assert await site.lives_for(KEEP_ALIVE_SECONDS - 1)
    assert not await site.lives_for(1), "it is idle as any other"


async def test_reading_stops_again_when_too_many_still_wait_after_an_answer() -> None:
    async with closed_at_the_end(OneByOne()) as site:
        await site.receives(GET * (MAX_PIPELINED + 3))
        site.answered.release()
        await site.settle()
        assert site.answers == 1
        await site.receives(GET)
        assert not site.transport.is_reading
        assert len(site.protocol.pipeline) == MAX_PIPELINED + 1


@pytest.mark.parametrize(
    ("sent", "status"),
    [(b"rubbish\r\n\r\n" * 2000, 400), (request(Sec_WebSocket_Version="8") + b"x" * 9000, 426)],
    ids=["rubbish", "upgrade"],
)
async def test_what_is_refused_is_answered_once_with_our_headers_and_ends_the_connection(
    site: Echo, sent: bytes, status: int
) -> None:
    site.transport.is_stalled = True
    await site.receives(sent)
    assert site.transport.written.count(b"HTTP/1.1 ") == 1
    assert status_of(site) == status
    assert b"\r\nx-content-type-options: nosniff\r\n" in site.transport.written
    if status == 400:
        assert b"\r\ncontent-type: text/plain; charset=utf-8\r\n" in site.transport.written
        assert site.transport.written.endswith(b"\r\n\r\nInvalid HTTP request received.")
    assert site.transport.is_closing()
    assert await site.lives_for(29)
    assert not await site.lives_for(1), "it does not read the answer"


def asking_for(protocol: bytes, rest: bytes, method: bytes = b"POST") -> bytes:
    """A request that would rather go on in another protocol (RFC 9110, section 7.8)."""
    head = b"%s /word HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %s\r\n"
    return head % (method, protocol) + rest


@pytest.mark.parametrize("cut", [1, 100, PIECE, 100_000])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("protocol", [b"h2c", b"websocket\r\nUpgrade: h2c"])
async def test_the_body_of_a_request_for_another_protocol_is_a_body_and_no_request(
    site: Echo, cut: int, chunked: bool, protocol: bytes
) -> None:
    """Else a client of a proxy could send requests of its own on a connection of the proxy, and
    others would get their answers."""
    body = GET * (2 * PIECE // len(GET))
    framed = b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    if chunked:
        framed = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    sent = asking_for(protocol, framed) * 2 + GET
    for at in range(0, len(sent), cut):
        await site.receives(sent[at : at + cut])
    assert site.bodies == [body, body, b""]
    assert site.answers == 3
    assert await site.lives_for(KEEP_ALIVE_SECONDS - 1), "nothing of it is unfinished"


async def test_requests_behind_one_for_another_protocol_are_answered(site: Echo) -> None:
    await site.receives(GET + asking_for(b"h2c", b"\r\n", b"GET") * 3 + GET + HEAD_OF_WEBSOCKET[:9])
    assert site.answers == 5
    await site.receives(HEAD_OF_WEBSOCKET[9:] + masked(1, b"hello"))
    assert frames_of(site.transport.written.rpartition(b"\r\n\r\n")[2]) == [(1, b"hello")]


@pytest.mark.parametrize("upgrade", [b"", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"])
async def test_trailers_are_no_headers(site: Echo, upgrade: bytes) -> None:
    """Else a client could give itself an address, behind a proxy that passes trailers on."""
    head = b"POST /word HTTP/1.1\r\nX-Forwarded-For: proxy\r\nTransfer-Encoding: chunked\r\n"
    await site.receives(head + upgrade + b"\r\n1\r\nx\r\n0\r\nX-Forwarded-For: client\r\n\r\n")
    assert site.bodies == [b"x"]
    headers = site.scope["headers"]
    assert [value for name, value in headers if name == b"x-forwarded-for"] == [b"proxy"]
    await site.receives(GET)
    assert site.scope["headers"] == [(b"host", b"x")], "those of another request"


@pytest.mark.parametrize("target", [b"/word", b"x:443"])
async def test_a_tunnel_is_refused_and_what_follows_is_no_request(
    site: Echo, target: bytes
) -> None:
    await site.receives(b"CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n" % target + GET)
    await site.receives(GET)
    assert status_of(site) == 501
    assert site.transport.written.count(b"HTTP/1.1 ") == 1
    assert site.transport.is_lost


@pytest.mark.parametrize("cut", [1, 100, PIECE, 3 * PIECE])
@pytest.mark.parametrize("cookie", [0, 2 * PIECE])
async def test_an_upgrade_passes_on_the_request_and_what_came_with_it(
    site: Echo, cut: int, cookie: int
) -> None:
    head = HEAD_OF_WEBSOCKET[:-2] + b"Cookie: %s\r\n\r\n" % (b"x" * cookie)
    if cookie:
        await site.receives(GET)  # the upgrade may come behind a complete answer
    before = site.transport.written
    messages = [b"%d" % number for number in range(1500)]
    data = head + b"".join(masked(1, message) for message in messages)
    for at in range(0, len(data), cut):
        piece = data[at : at + cut]
        (protocol,) = site.state.connections
        protocol.data_received(piece)
    await site.settle()
    site.loop.advance(0.1)
    await site.settle()
    head, _, frames = site.transport.written.removeprefix(before).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert [payload for _, payload in frames_of(frames)] == messages
    assert site.scope["type"] == "websocket"
    assert (site.scope["path"], site.scope["raw_path"]) == ("/s ocket", b"/s%20ocket")
    assert (site.scope["query_string"], site.scope["scheme"]) == (b"a=1", "ws")
    assert site.scope["subprotocols"] == ["one", "two"]
    assert "method" not in site.scope
    assert site.transport.is_reading
    (protocol,) = site.state.connections
    protocol.data_received(masked(8, (4321).to_bytes(2)))
    await site.settle()
    assert site.code == 4321


async def test_the_deadlines_of_http_end_with_an_upgrade(site: Echo) -> None:
    site.transport.is_stalled = True
    await site.receives(GET)
    site.protocol.eof_received()
    await site.receives(HEAD_OF_WEBSOCKET)
    assert site.scope["type"] == "websocket"
    assert site.protocol.timeout_keep_alive_task is None
    assert await site.lives_for(35)


async def test_an_upgrade_leaves_nothing_to_the_garbage_collector(site: Echo) -> None:
    """The HTTP connection is freed at once, not when the oldest generation is collected."""
    http = weakref.ref(site.protocol)
    gc.disable()
    try:
        site.protocol.data_received(HEAD_OF_WEBSOCKET)
        await site.settle()
        del site.protocol
        assert http() is None
    finally:
        gc.enable()
    (protocol,) = site.state.connections
    protocol.data_received(masked(8, (1000).to_bytes(2)))
    await site.settle()


@pytest.mark.parametrize(
    "rubbish", [b"rubbish\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * MAX_HEAD]
)
@pytest.mark.parametrize("requests", [GET, post(4) + b"body", GET + GET], ids=len)
async def test_what_is_refused_is_not_taken_for_the_answer_to_an_earlier_request(
    site: Echo, requests: bytes, rubbish: bytes
) -> None:
    site.may_answer.clear()
    await site.receives(requests + rubbish)
    assert site.transport.written == b""
    assert site.transport.is_lost


async def test_a_malformed_body_is_answered_while_its_request_has_no_answer(site: Echo) -> None:
    head = b"POST /word HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    await site.receives(head + b"4\r\nbody\r\n" + b"no size\r\n")
    assert status_of(site) == 400
    assert site.transport.is_closing()


async def test_what_is_refused_after_an_answer_is_answered(site: Echo) -> None:
    await site.receives(GET)
    await site.receives(b"rubbish\r\n\r\n")
    assert site.answers == 1
    assert site.transport.written.count(b"HTTP/1.1 400 ") == 1


class Listening(Site):
    """Waits for the end of the connection in each request."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        super().__init__()

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] != "http.disconnect":
            pass
        self.ended.append(scope["path"])


@pytest.mark.parametrize("behind", [0, 1, 5])
async def test_a_request_learns_that_its_client_has_gone_whatever_waits_behind_it(
    behind: int,
) -> None:
    async with closed_at_the_end(Listening()) as site:
        await site.receives(GET.replace(b"word", b"stream") + GET * behind)
        site.transport.abort()
        await site.settle()
        assert site.ended == ["/stream"]
