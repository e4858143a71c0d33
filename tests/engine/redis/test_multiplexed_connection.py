"""The one connection to Redis: what it does when it breaks, stalls, or leads to the wrong one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from bff.redis import connection
from bff.redis.client import connect
from bff.redis.pipeline import AutoPipeline
from bff.testing import until
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError


class Server:
    """Speaks RESP as far as a handshake goes, and answers other commands as the test wishes."""

    def __init__(self, answer: Callable[[bytes], bytes | None]) -> None:
        self.answer = answer
        """The answer to one command; None to hang up."""
        self.connections = 0
        self.commands: list[bytes] = []
        self.ends: list[type[Exception]] = []
        """How clients have left."""
        self.address = ""

    async def speak(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                command = await self._read(reader)
                if command.startswith(b"CLIENT"):
                    writer.write(b"+OK\r\n")
                    continue
                self.commands.append(command)
                answer = self.answer(command)
                if answer is None:
                    break
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError) as end:
            self.ends.append(type(end))
        writer.close()

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> bytes:
        """A command's words, with spaces between."""
        words = []
        for _ in range(int((await reader.readuntil(b"\r\n"))[1:])):
            size = int((await reader.readuntil(b"\r\n"))[1:])
            words.append((await reader.readexactly(size + 2))[:-2])
        return b" ".join(words)


@asynccontextmanager
async def served(
    answer: Callable[[bytes], bytes | None],
) -> AsyncIterator[tuple[Server, AutoPipeline]]:
    server = Server(answer)
    async with await asyncio.start_server(server.speak, "127.0.0.1", 0) as listener:
        redis = connect(f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}/0")
        pipeline = AutoPipeline(redis)
        yield server, pipeline
        await pipeline.close()
        await redis.aclose()


def echo(command: bytes) -> bytes:
    word = command.split()[-1]
    return b"$%d\r\n%s\r\n" % (len(word), word)


async def test_many_share_one_connection_and_each_gets_its_own_answer() -> None:
    async with served(echo) as (server, pipeline):
        answers = [pipeline.submit("ECHO", str(number)) for number in range(1000)]
        assert [int(answer) for answer in await asyncio.gather(*answers)] == list(range(1000))
        assert server.connections == 1


async def test_what_is_refused_harms_no_other() -> None:
    def answer(command: bytes) -> bytes:
        return b"-ERR no\r\n" if command.endswith(b"bad") else echo(command)

    async with served(answer) as (_, pipeline):
        good, bad, better = (pipeline.submit("ECHO", word) for word in ("good", "bad", "better"))
        assert (await good, await better) == (b"good", b"better")
        with pytest.raises(ResponseError):
            await bad


async def test_what_was_under_way_when_it_broke_fails_and_is_not_sent_again() -> None:
    async with served(lambda command: None if b"fatal" in command else echo(command)) as served_:
        server, pipeline = served_
        assert await pipeline.submit("ECHO", "before") == b"before"
        broken = [pipeline.submit("ECHO", word) for word in ("fatal", "behind")]
        for one in await asyncio.gather(*broken, return_exceptions=True):
            assert isinstance(one, RedisConnectionError)
        assert await pipeline.submit("ECHO", "after") == b"after"
        assert server.connections == 2
        assert [one for one in server.commands if b"fatal" in one] == [b"ECHO fatal"]


async def test_one_that_broke_while_nobody_used_it_is_replaced_unnoticed() -> None:
    async with served(lambda command: None if b"QUIT" in command else echo(command)) as served_:
        server, pipeline = served_
        with pytest.raises(RedisConnectionError):
            await pipeline.submit("QUIT")
        await until(lambda: pipeline._executor._connected is None)  # type: ignore[attr-defined]
        assert await pipeline.submit("ECHO", "again") == b"again"
        assert server.connections == 2


async def test_one_that_goes_silent_is_given_up_and_nobody_waits_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "_SECONDS", 0.2)
    is_silent = True
    async with served(lambda command: b"" if is_silent else echo(command)) as (server, pipeline):
        for one in await asyncio.gather(
            *(pipeline.submit("ECHO", "x") for _ in range(3)), return_exceptions=True
        ):
            assert isinstance(one, RedisTimeoutError)
        is_silent = False
        assert await pipeline.submit("ECHO", "again") == b"again"
        assert server.connections == 2


async def test_a_slow_stream_of_answers_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_SECONDS", 1.0)
    async with served(echo) as (server, pipeline):
        for _ in range(8):
            await pipeline.submit("ECHO", "x")
            await asyncio.sleep(0.2)
        assert server.connections == 1


async def test_no_more_are_under_way_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_UNDER_WAY", 10)
    async with served(echo) as (_, pipeline):
        await pipeline.submit("ECHO", "x")
        answers = [pipeline.submit("ECHO", str(number)) for number in range(95)]
        await asyncio.sleep(0)
        carrier: Any = pipeline._executor
        assert len(carrier._connected.under_way) == 10
        assert [int(answer) for answer in await asyncio.gather(*answers)] == list(range(95))


async def test_a_master_that_has_become_a_replica_is_left() -> None:
    is_replica = True

    def answer(command: bytes) -> bytes:
        return b"-READONLY You can't write\r\n" if is_replica else echo(command)

    async with served(answer) as (server, pipeline):
        with pytest.raises(ReadOnlyError):
            await pipeline.submit("SET", "x")
        is_replica = False
        assert await pipeline.submit("SET", "x") == b"x"
        assert server.connections == 2


async def test_where_nobody_listens_everybody_is_told_at_once() -> None:
    redis = connect("redis://127.0.0.1:1/0")
    pipeline = AutoPipeline(redis)
    for one in await asyncio.gather(
        *(pipeline.submit("PING") for _ in range(5)), return_exceptions=True
    ):
        assert isinstance(one, RedisConnectionError)
    await redis.aclose()


async def test_who_gives_up_takes_nobodys_answer() -> None:
    async with served(echo) as (_, pipeline):
        first, second = pipeline.submit("ECHO", "one"), pipeline.submit("ECHO", "two")
        first.cancel()
        assert await second == b"two"


@pytest.fixture(params=["a line", "round trips"])
async def pipeline(request: pytest.FixtureRequest) -> AsyncIterator[AutoPipeline]:
    """Over each kind of carrier, to something that knows ECHO."""
    if request.param == "a line":
        async with served(echo) as (_, pipeline):
            yield pipeline
    else:
        redis = connect("memory://")
        yield AutoPipeline(redis)
        await redis.aclose()


@pytest.mark.parametrize("word", ["\ud800", None, True], ids=repr)
async def test_a_command_that_cannot_be_written_shifts_nobodys_answer(
    pipeline: AutoPipeline, word: Any
) -> None:
    """It is not sent, so no answer will ever be its own."""
    for _ in range(2):
        words = ("before", word, "behind")
        before, bad, behind = (pipeline.submit("ECHO", one) for one in words)
        async with asyncio.timeout(15):
            with pytest.raises(DataError):
                await bad
            assert (await before, await behind) == (b"before", b"behind")


async def test_who_gave_up_before_it_was_sent_has_nothing_done() -> None:
    async with served(echo) as (server, pipeline):
        given_up = pipeline.submit("ECHO", "given-up")
        given_up.cancel()
        assert await pipeline.submit("ECHO", "kept") == b"kept"
        assert server.commands == [b"ECHO kept"]


async def test_what_is_given_up_is_cut_so_that_nothing_arrives_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An orderly end would go on delivering what the system still holds."""
    monkeypatch.setattr(connection, "_SECONDS", 0.2)
    async with served(lambda command: b"") as (server, pipeline):
        with pytest.raises(RedisTimeoutError):
            await pipeline.submit("ECHO", "x")
        await until(lambda: server.ends == [ConnectionResetError])


async def test_once_closed_it_stays_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_UNDER_WAY", 10)
    async with served(echo) as (server, pipeline):
        await pipeline.submit("ECHO", "x")
        answers = [pipeline.submit("ECHO", str(number)) for number in range(25)]
        await asyncio.sleep(0)
        await pipeline.close()
        answers.append(pipeline.submit("ECHO", "late"))
        for one in await asyncio.gather(*answers, return_exceptions=True):
            assert isinstance(one, RedisConnectionError)
        assert server.connections == 1


async def test_after_a_failed_attempt_the_next_one_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_PAUSE", (0.3, 0.3))
    redis: Any = connect("redis://127.0.0.1:1/0")
    attempts = 0
    make = redis.connection_pool.make_connection

    def counted() -> Any:
        nonlocal attempts
        attempts += 1
        return make()

    monkeypatch.setattr(redis.connection_pool, "make_connection", counted)
    pipeline = AutoPipeline(redis)

    async def ask() -> bool:
        with pytest.raises(RedisConnectionError):
            await pipeline.submit("PING")
        return attempts == 2

    for _ in range(20):
        await ask()
    assert attempts == 1
    await until(ask)
    await redis.aclose()
