"""The multiplexed connection when it breaks, stalls, or reaches a replica."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from bff.redis import batch, connection
from bff.redis.client import UNAVAILABLE, create_client
from bff.redis.pipeline import AutoPipeline
from bff.testing import until
from redis.asyncio import connection as redis_connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, ReadOnlyError, ResponseError, SlotNotCoveredError
from redis.exceptions import TimeoutError as RedisTimeoutError


class Server:
    """A Redis server that accepts the handshake, and whose other replies come from the test."""

    def __init__(self, reply_to: Callable[[bytes], bytes | None]) -> None:
        self.reply_to = reply_to
        """The reply to a command; None closes the connection."""
        self.connections = 0
        self.commands: list[bytes] = []
        self.ends: list[type[Exception]] = []
        """How clients have closed their connections."""
        self.address = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                command = await self._read(reader)
                if command.startswith(b"CLIENT"):
                    writer.write(b"+OK\r\n")
                    continue
                self.commands.append(command)
                reply = self.reply_to(command)
                if reply is None:
                    break
                writer.write(reply)
        except (asyncio.IncompleteReadError, ConnectionError) as end:
            self.ends.append(type(end))
        writer.close()

    @staticmethod
    async def _read(reader: asyncio.StreamReader) -> bytes:
        """The words of one command, joined by spaces."""
        words = []
        for _ in range(int((await reader.readuntil(b"\r\n"))[1:])):
            size = int((await reader.readuntil(b"\r\n"))[1:])
            words.append((await reader.readexactly(size + 2))[:-2])
        return b" ".join(words)


@asynccontextmanager
async def served(
    reply_to: Callable[[bytes], bytes | None],
) -> AsyncIterator[tuple[Server, AutoPipeline]]:
    """A server and a pipeline that is connected to it."""
    server = Server(reply_to)
    async with await asyncio.start_server(server.serve, "127.0.0.1", 0) as listening:
        redis = create_client(f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0")
        pipeline = AutoPipeline(redis)
        yield server, pipeline
        await pipeline.close()
        await redis.aclose()


def echo(command: bytes) -> bytes:
    word = command.split()[-1]
    return b"$%d\r\n%s\r\n" % (len(word), word)


async def test_many_commands_share_one_connection_and_each_gets_its_reply() -> None:
    async with served(echo) as (server, pipeline):
        replies = [pipeline.submit("ECHO", str(number)) for number in range(1000)]
        assert [int(reply) for reply in await asyncio.gather(*replies)] == list(range(1000))
        assert server.connections == 1


async def test_an_error_reply_does_not_affect_other_commands() -> None:
    def reply_to(command: bytes) -> bytes:
        return b"-ERR no\r\n" if command.endswith(b"bad") else echo(command)

    async with served(reply_to) as (_, pipeline):
        good, bad, better = (pipeline.submit("ECHO", word) for word in ("good", "bad", "better"))
        assert (await good, await better) == (b"good", b"better")
        with pytest.raises(ResponseError):
            await bad


async def test_commands_in_flight_fail_when_the_connection_breaks_and_are_not_sent_again() -> None:
    async with served(lambda command: None if b"fatal" in command else echo(command)) as (
        server,
        pipeline,
    ):
        assert await pipeline.submit("ECHO", "before") == b"before"
        broken = [pipeline.submit("ECHO", word) for word in ("fatal", "behind")]
        for one in await asyncio.gather(*broken, return_exceptions=True):
            assert isinstance(one, RedisConnectionError)
        assert await pipeline.submit("ECHO", "after") == b"after"
        assert server.connections == 2
        assert [one for one in server.commands if b"fatal" in one] == [b"ECHO fatal"]


async def test_commands_that_were_not_sent_when_the_connection_broke_are_sent_on_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "_MAX_IN_FLIGHT", 1)
    async with served(lambda command: None if b"fatal" in command else echo(command)) as (
        server,
        pipeline,
    ):
        fatal, *waiting = (pipeline.submit("ECHO", word) for word in ("fatal", "1", "2"))
        async with asyncio.timeout(15):
            with pytest.raises(RedisConnectionError):
                await fatal
            assert await asyncio.gather(*waiting) == [b"1", b"2"]
        assert server.connections == 2


async def test_commands_that_were_not_sent_when_replies_were_missing_fail_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each would wait for its own timeout otherwise."""
    monkeypatch.setattr(connection, "_REPLY_SECONDS", 0.2)
    monkeypatch.setattr(connection, "_MAX_IN_FLIGHT", 1)
    async with served(lambda _: b"") as (server, pipeline):
        replies = [pipeline.submit("ECHO", word) for word in ("sent", "1", "2")]
        for one in await asyncio.gather(*replies, return_exceptions=True):
            assert isinstance(one, RedisTimeoutError)
        assert server.commands == [b"ECHO sent"]


async def test_a_connection_that_broke_while_idle_is_replaced() -> None:
    async with served(lambda command: None if b"QUIT" in command else echo(command)) as (
        server,
        pipeline,
    ):
        with pytest.raises(RedisConnectionError):
            await pipeline.submit("QUIT")
        await until(lambda: pipeline._executor._connected is None)  # type: ignore[attr-defined]
        assert await pipeline.submit("ECHO", "again") == b"again"
        assert server.connections == 2


async def test_a_connection_without_replies_is_aborted_and_waiting_commands_fail_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "_REPLY_SECONDS", 0.2)
    is_stalled = True
    async with served(lambda command: b"" if is_stalled else echo(command)) as (server, pipeline):
        for one in await asyncio.gather(
            *(pipeline.submit("ECHO", "x") for _ in range(3)), return_exceptions=True
        ):
            assert isinstance(one, RedisTimeoutError)
        is_stalled = False
        assert await pipeline.submit("ECHO", "again") == b"again"
        assert server.connections == 2


async def test_missing_replies_are_noticed_also_after_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "_REPLY_SECONDS", 0.2)
    is_stalled = False
    async with served(lambda command: b"" if is_stalled else echo(command)) as (_, pipeline):
        await pipeline.submit("ECHO", "x")
        executor: Any = pipeline._executor
        await until(lambda: executor._connected._watchdog is None)
        is_stalled = True
        async with asyncio.timeout(15):
            with pytest.raises(RedisTimeoutError):
                await pipeline.submit("ECHO", "x")


async def test_the_reply_to_a_command_after_a_pause_has_the_full_time() -> None:
    """The check of the replies may come at once after the command."""
    async with served(echo) as (server, pipeline):
        await pipeline.submit("ECHO", "x")
        executor: Any = pipeline._executor
        connected = executor._connected
        connected._active_at -= 2 * connection._REPLY_SECONDS
        connected._transport.pause_reading()
        reply = pipeline.submit("ECHO", "y")
        await until(lambda: len(connected.in_flight) == 1)
        connected._check()
        connected._transport.resume_reading()
        assert await reply == b"y"
        assert server.connections == 1


async def test_each_reply_gives_the_next_one_the_full_time() -> None:
    async with served(lambda one: b"" if one.endswith(b"y") else echo(one)) as (server, pipeline):
        await pipeline.submit("ECHO", "before")
        executor: Any = pipeline._executor
        connected = executor._connected
        connected._transport.pause_reading()
        first, second = pipeline.submit("ECHO", "x"), pipeline.submit("ECHO", "y")
        await until(lambda: len(connected.in_flight) == 2)
        connected._active_at -= 2 * connection._REPLY_SECONDS
        connected._transport.resume_reading()
        assert await first == b"x"
        connected._watchdog.cancel()
        connected._active_at -= connection._REPLY_SECONDS / 2
        connected._check()
        next_check = connected._active_at + connection._REPLY_SECONDS
        assert connected._watchdog.when() == pytest.approx(next_check, abs=2)
        assert not second.done()
        assert server.connections == 1


async def test_slow_replies_keep_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_REPLY_SECONDS", 1.0)
    async with served(echo) as (server, pipeline):
        for _ in range(8):
            await pipeline.submit("ECHO", "x")
            await asyncio.sleep(0.2)
        assert server.connections == 1


async def test_the_number_of_commands_in_flight_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_MAX_IN_FLIGHT", 10)
    async with served(echo) as (_, pipeline):
        await pipeline.submit("ECHO", "x")
        replies = [pipeline.submit("ECHO", str(number)) for number in range(6)]
        await asyncio.sleep(0)
        replies += [pipeline.submit("ECHO", str(number)) for number in range(6, 95)]
        await asyncio.sleep(0)
        executor: Any = pipeline._executor
        assert len(executor._connected.in_flight) == 10
        assert [int(reply) for reply in await asyncio.gather(*replies)] == list(range(95))


async def test_commands_share_a_write_while_several_writes_await_replies() -> None:
    async with served(echo) as (_, pipeline):
        await pipeline.submit("ECHO", "x")
        executor: Any = pipeline._executor
        connected = executor._connected
        written: list[bytes] = []
        transport = connected._transport

        class Recorder:
            def write(self, data: bytes) -> None:
                written.append(data)
                transport.write(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

        connected._transport = Recorder()
        loop = asyncio.get_running_loop()
        replies: list[asyncio.Future[Any]] = []

        def submit(number: int) -> None:
            """One command in each turn of the event loop, faster than any reply."""
            replies.append(pipeline.submit("ECHO", str(number)))
            if number < 19:
                loop.call_soon(submit, number + 1)

        transport.pause_reading()
        submit(0)
        await until(lambda: len(replies) == 20)
        assert len(written) == connection._MAX_WRITES
        transport.resume_reading()
        assert [int(reply) for reply in await asyncio.gather(*replies)] == list(range(20))
        assert len(written) < 20


async def test_it_reconnects_when_the_master_has_become_a_replica() -> None:
    is_replica = True

    def reply_to(command: bytes) -> bytes:
        return b"-READONLY You can't write\r\n" if is_replica else echo(command)

    async with served(reply_to) as (server, pipeline):
        with pytest.raises(ReadOnlyError):
            await pipeline.submit("SET", "x")
        is_replica = False
        assert await pipeline.submit("SET", "x") == b"x"
        assert server.connections == 2


@pytest.mark.parametrize("end", ["closed", "reset"])
async def test_a_connection_that_breaks_as_it_is_opened_is_replaced(
    monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """It is lost before its end can be noticed as that of an open connection."""
    connect: Any = redis_connection.Connection.connect
    writers: list[asyncio.StreamWriter] = []
    serve = Server.serve

    async def serve_recorded(
        server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writers.append(writer)
        await serve(server, reader, writer)

    async def connect_and_lose(opened: Any) -> None:
        await connect(opened)
        if len(writers) == 1:
            if end == "reset":
                raw = writers[0].get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, connection._NO_LINGER)
            writers[0].close()
            await until(lambda: opened._reader.at_eof() or opened._writer.is_closing())

    monkeypatch.setattr(Server, "serve", serve_recorded)
    monkeypatch.setattr(redis_connection.Connection, "connect", connect_and_lose)
    async with served(echo) as (server, pipeline), asyncio.timeout(15):
        with pytest.raises(RedisConnectionError):
            await pipeline.submit("ECHO", "first")
        await until(lambda: pipeline._executor._refusal is None)  # type: ignore[attr-defined]
        assert await pipeline.submit("ECHO", "again") == b"again"
        assert server.connections == 2


async def test_all_commands_fail_at_once_when_the_connection_is_refused() -> None:
    redis = create_client("redis://127.0.0.1:1/0")
    pipeline = AutoPipeline(redis)
    for one in await asyncio.gather(
        *(pipeline.submit("PING") for _ in range(5)), return_exceptions=True
    ):
        assert isinstance(one, RedisConnectionError)
    await redis.aclose()


async def test_the_error_of_a_command_that_is_not_awaited_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    redis = create_client("redis://127.0.0.1:1/0")
    pipeline = AutoPipeline(redis)
    pipeline.submit("PING")
    with pytest.raises(RedisConnectionError):
        await pipeline.submit("PING")
    gc.collect()
    assert "never retrieved" not in caplog.text
    await redis.aclose()


async def test_a_cancelled_command_does_not_shift_the_replies() -> None:
    async with served(echo) as (_, pipeline):
        first, second = pipeline.submit("ECHO", "one"), pipeline.submit("ECHO", "two")
        first.cancel()
        assert await second == b"two"


@pytest.fixture(params=["multiplexed", "batches"])
async def pipeline(request: pytest.FixtureRequest) -> AsyncIterator[AutoPipeline]:
    """A pipeline over each kind of executor, to a server that supports ECHO."""
    if request.param == "multiplexed":
        async with served(echo) as (_, pipeline):
            yield pipeline
    else:
        redis = create_client("memory://")
        yield AutoPipeline(redis)
        await redis.aclose()


@pytest.mark.parametrize("word", ["\ud800", None, True], ids=repr)
async def test_a_command_that_cannot_be_encoded_does_not_shift_the_replies(
    pipeline: AutoPipeline, word: Any
) -> None:
    """It is not sent, so there is no reply to it."""
    for _ in range(2):
        words = ("before", word, "behind")
        before, bad, behind = (pipeline.submit("ECHO", one) for one in words)
        async with asyncio.timeout(15):
            with pytest.raises(DataError):
                await bad
            assert (await before, await behind) == (b"before", b"behind")


async def test_a_command_that_is_cancelled_before_it_is_sent_is_not_executed() -> None:
    async with served(echo) as (server, pipeline):
        cancelled = pipeline.submit("ECHO", "cancelled")
        cancelled.cancel()
        assert await pipeline.submit("ECHO", "kept") == b"kept"
        assert server.commands == [b"ECHO kept"]


@pytest.mark.parametrize("unusable", ["cancelled", "not encodable"])
async def test_commands_behind_many_that_are_not_sent_are_sent(
    monkeypatch: pytest.MonkeyPatch, unusable: str
) -> None:
    """A send to many users was cancelled, for example."""
    monkeypatch.setattr(connection, "_MAX_IN_FLIGHT", 2)
    async with served(echo) as (server, pipeline):
        assert await pipeline.submit("ECHO", "connected") == b"connected"
        sent = [pipeline.submit("ECHO", word) for word in ("1", "2")]
        word = "\ud800" if unusable == "not encodable" else "cancelled"
        dropped = [pipeline.submit("ECHO", word) for _ in range(10)]
        await asyncio.sleep(0)
        for one in dropped:
            one.cancel()
        async with asyncio.timeout(5):
            assert await asyncio.gather(*sent) == [b"1", b"2"]
            assert await pipeline.submit("ECHO", "behind") == b"behind"
        assert server.commands == [b"ECHO connected", b"ECHO 1", b"ECHO 2", b"ECHO behind"]


async def test_an_aborted_connection_is_reset_so_that_nothing_arrives_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After an orderly close the kernel would still send what it has buffered."""
    monkeypatch.setattr(connection, "_REPLY_SECONDS", 0.2)
    async with served(lambda command: b"") as (server, pipeline):
        with pytest.raises(RedisTimeoutError):
            await pipeline.submit("ECHO", "x")
        await until(lambda: server.ends == [ConnectionResetError])


async def test_after_close_all_commands_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_MAX_IN_FLIGHT", 10)
    async with served(echo) as (server, pipeline):
        await pipeline.submit("ECHO", "x")
        replies = [pipeline.submit("ECHO", str(number)) for number in range(25)]
        await asyncio.sleep(0)
        await pipeline.close()
        replies.append(pipeline.submit("ECHO", "late"))
        for one in await asyncio.gather(*replies, return_exceptions=True):
            assert isinstance(one, RedisConnectionError)
        assert server.connections == 1


async def test_after_close_all_commands_of_a_batch_executor_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that wait for a free round trip too: they must not start another."""
    monkeypatch.setattr(batch, "_MAX_BATCH", 10)
    monkeypatch.setattr(batch, "_MAX_IN_FLIGHT", 1)
    redis = create_client("memory://")
    pipeline = AutoPipeline(redis)
    replies = [pipeline.submit("SET", str(number), "x") for number in range(25)]
    await asyncio.sleep(0)
    await pipeline.close()
    replies.append(pipeline.submit("SET", "late", "x"))
    for one in await asyncio.gather(*replies, return_exceptions=True):
        assert isinstance(one, RedisConnectionError)
    assert await redis.dbsize() <= 10
    await redis.aclose()


async def test_close_ends_an_attempt_to_connect() -> None:
    """The server accepts it and does not say a word."""
    accepted, closed = asyncio.Event(), asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        while await reader.read(4096):
            pass
        closed.set()
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as listening:
        redis = create_client(f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0")
        pipeline = AutoPipeline(redis)
        reply = pipeline.submit("PING")
        await accepted.wait()
        await pipeline.close()
        with pytest.raises(RedisConnectionError, match="closed"):
            await reply
        await closed.wait()
        await redis.aclose()


async def test_a_command_after_another_waits_for_no_reply() -> None:
    """A single server executes commands in the order in which they were sent."""
    async with served(lambda _: b"") as (server, pipeline):
        first = pipeline.submit("ECHO", "first")
        second = pipeline.submit("ECHO", "second", after=first)
        await until(lambda: server.commands == [b"ECHO first", b"ECHO second"])
        assert server.connections == 1
        assert not second.done()


async def test_a_hash_is_read_alike_with_both_executors() -> None:
    """redis-py makes a dictionary of it, a server replies with a list."""
    redis = create_client("memory://")
    await redis.hset("key", mapping={"a": "1", "b": "2"})
    async with served(lambda _: b"*4\r\n+a\r\n+1\r\n+b\r\n+2\r\n") as (_, pipeline):
        for one in (pipeline, AutoPipeline(redis)):
            assert await one.read_hash("key") == {b"a": b"1", b"b": b"2"}
    await redis.aclose()


async def test_a_slot_without_a_node_is_a_connection_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """redis-py raises an error that is no `RedisError`, which ends background tasks."""
    redis: Any = create_client("redis+cluster://127.0.0.1:1")

    async def initialized() -> None: ...

    def not_covered(_: str) -> None:
        raise SlotNotCoveredError("slot 1 is not covered by the cluster")

    monkeypatch.setattr(redis, "initialize", initialized)
    monkeypatch.setattr(redis, "get_node_from_key", not_covered)
    with pytest.raises(RedisConnectionError, match="slot 1 is not covered"):
        await AutoPipeline(redis).submit("GET", "key")
    assert issubclass(SlotNotCoveredError, UNAVAILABLE)


async def test_it_waits_after_a_failed_connection_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_RETRY_SECONDS", (2, 2))
    redis: Any = create_client("redis://127.0.0.1:1/0")
    attempts = 0
    make = redis.connection_pool.make_connection

    def counted() -> Any:
        nonlocal attempts
        attempts += 1
        return make()

    monkeypatch.setattr(redis.connection_pool, "make_connection", counted)
    pipeline = AutoPipeline(redis)

    async def second_attempt() -> bool:
        with pytest.raises(RedisConnectionError):
            await pipeline.submit("PING")
        return attempts == 2

    for _ in range(20):
        await second_attempt()
    assert attempts == 1
    await until(second_attempt)
    await redis.aclose()
