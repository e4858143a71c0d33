"""A channel counts as subscribed only while Redis has confirmed it on the open connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from bff.cluster.pubsub_channels import PubSubChannels
from bff.redis.client import create_client
from bff.testing import until
from redis.asyncio import Redis
from redis.asyncio.connection import Connection as RedisConnection
from redis.exceptions import ConnectionError as RedisConnectionError


class PubSub:
    """Records requests; the test confirms them."""

    def __init__(self) -> None:
        self.subscribed: list[str] = []
        self.unsubscribed: list[str] = []
        self.error: Exception | None = None
        self.connection = self
        self.is_connected = True

    async def subscribe(self, *names: str) -> None:
        self.subscribed += names
        if self.error:
            raise self.error

    async def unsubscribe(self, *names: str) -> None:
        self.unsubscribed += names
        if self.error:
            raise self.error


@pytest.fixture
def pubsub() -> PubSub:
    return PubSub()


@pytest.fixture
def channels() -> PubSubChannels:
    return PubSubChannels("own")


async def waits(channels: PubSubChannels, name: str) -> asyncio.Task[None]:
    task = asyncio.create_task(channels.subscribe(name))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return task


async def test_a_channel_is_confirmed_once_and_then_at_once(
    channels: PubSubChannels, pubsub: PubSub
) -> None:
    await channels.open(pubsub)
    channels.on_confirmed("own")
    first, second = await waits(channels, "alice"), await waits(channels, "alice")
    assert pubsub.subscribed == ["own", "alice"]
    assert not first.done()
    channels.on_confirmed("alice")
    await asyncio.gather(first, second)
    await channels.subscribe("alice")
    assert pubsub.subscribed == ["own", "alice"]


async def test_a_lost_connection_needs_all_confirmations_again(
    channels: PubSubChannels, pubsub: PubSub
) -> None:
    await channels.open(pubsub)
    task = await waits(channels, "alice")
    channels.on_confirmed("alice")
    await task
    channels.close()
    task = await waits(channels, "alice")
    other = await waits(channels, "bob")
    again = PubSub()
    await channels.open(again)
    assert sorted(again.subscribed) == ["alice", "bob", "own"]
    assert not task.done()
    for name in again.subscribed:
        channels.on_confirmed(name)
    await asyncio.gather(task, other)


async def test_a_confirmation_that_nobody_requested_is_a_lost_connection(
    channels: PubSubChannels, pubsub: PubSub
) -> None:
    """redis-py has subscribed again by itself: messages in between are missing."""
    await channels.open(pubsub)
    channels.on_confirmed("own")
    with pytest.raises(ConnectionError):
        channels.on_confirmed("own")
    channels.close()
    with pytest.raises(ConnectionError):
        channels.on_confirmed("own")


async def test_channels_that_nobody_needs_are_dropped(
    channels: PubSubChannels, pubsub: PubSub
) -> None:
    await channels.open(pubsub)
    channels.on_confirmed("own")
    tasks = [await waits(channels, name) for name in ("alice", "bob")]
    for name in ("alice", "bob"):
        channels.on_confirmed(name)
    await asyncio.gather(*tasks)
    await channels.unsubscribe_all_but({"bob"})
    await channels.unsubscribe_all_but({"bob"})
    assert pubsub.unsubscribed == ["alice"]
    task = await waits(channels, "alice")
    channels.on_confirmed("alice")  # of the end
    await asyncio.sleep(0)
    assert not task.done()
    channels.on_confirmed("alice")
    await task


async def test_an_error_of_the_connection_is_left_to_the_listener(
    channels: PubSubChannels, pubsub: PubSub
) -> None:
    await channels.open(pubsub)
    pubsub.error = ConnectionError("lost")
    task = await waits(channels, "alice")
    assert not task.done()
    await channels.unsubscribe_all_but({"nobody"})
    task.cancel()


async def test_without_a_connection_it_waits_for_one(channels: PubSubChannels) -> None:
    await channels.unsubscribe_all_but(())
    task = await waits(channels, "alice")
    pubsub = PubSub()
    await channels.open(pubsub)
    assert not task.done()
    channels.on_confirmed("alice")
    await task


@asynccontextmanager
async def confirming_server() -> AsyncIterator[Redis]:
    """The client of a server that only confirms subscriptions."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                words = []
                for _ in range(int((await reader.readuntil(b"\r\n"))[1:])):
                    size = int((await reader.readuntil(b"\r\n"))[1:])
                    words.append((await reader.readexactly(size + 2))[:-2])
                verb, *names = words
                if verb == b"CLIENT":
                    writer.write(b"+OK\r\n")
                for name in names if verb != b"CLIENT" else ():
                    kind = verb.lower()
                    reply = b"*3\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n:1\r\n"
                    writer.write(reply % (len(kind), kind, len(name), name))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        redis = create_client(f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0")
        assert isinstance(redis, Redis)
        try:
            yield redis
        finally:
            await redis.aclose()


@pytest.fixture
def connects(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.Event]:
    """Each attempt to connect adds an event, and waits for it."""
    attempts: list[asyncio.Event] = []
    connect: Any = RedisConnection._connect

    async def wait_and_connect(connection: RedisConnection) -> None:
        attempts.append(asyncio.Event())
        await attempts[-1].wait()
        await connect(connection)

    monkeypatch.setattr(RedisConnection, "_connect", wait_and_connect)
    return attempts


async def confirm(channels: PubSubChannels, pubsub: Any, count: int) -> None:
    """What the listener does with confirmations."""
    for _ in range(count):
        message = await pubsub.get_message(timeout=5)
        channels.on_confirmed(message["channel"].decode())


async def test_a_channel_that_is_added_while_redis_connects_needs_no_connection_of_its_own(
    channels: PubSubChannels, connects: list[asyncio.Event]
) -> None:
    async with confirming_server() as redis:
        pubsub: Any = redis.pubsub()
        opening = asyncio.create_task(channels.open(pubsub))
        await until(lambda: len(connects) == 1)
        added = [await waits(channels, name) for name in ("alice", "bob")]
        async with asyncio.timeout(5):
            await channels.unsubscribe_all_but({"alice"})
        assert len(connects) == 1
        connects[0].set()
        await opening
        await confirm(channels, pubsub, 2)
        await added[0]
        added[1].cancel()
        channels.close()
        await pubsub.aclose()
        assert not redis.connection_pool._in_use_connections


@pytest.mark.parametrize("request_", ["subscribe", "unsubscribe"])
async def test_a_request_while_the_connection_is_lost_is_left_to_the_next_connection(
    channels: PubSubChannels, connects: list[asyncio.Event], request_: str
) -> None:
    async with confirming_server() as redis:
        pubsub: Any = redis.pubsub()
        opening = asyncio.create_task(channels.open(pubsub))
        await until(lambda: len(connects) == 1)
        connects[0].set()
        await opening
        old = await waits(channels, "old")
        await confirm(channels, pubsub, 2)
        await old
        pubsub.connection._writer.transport.abort()
        reading = asyncio.create_task(pubsub.get_message(timeout=5))
        await until(lambda: len(connects) == 2)  # redis-py connects once more before it fails
        if request_ == "subscribe":
            requested = await waits(channels, "new")
        else:
            requested = asyncio.create_task(channels.unsubscribe_all_but(()))
            await asyncio.sleep(0)
        connects[1].set()
        with pytest.raises(RedisConnectionError):
            await reading
        channels.close()
        await pubsub.aclose()
        for connect in connects:
            connect.set()
        again: Any = redis.pubsub()
        opening = asyncio.create_task(channels.open(again))
        await until(lambda: not connects[-1].is_set())
        connects[-1].set()
        await opening
        needed = {"own", "old", "new"} if request_ == "subscribe" else {"own"}
        await confirm(channels, again, len(needed))
        await requested
        assert set(again.channels) == {name.encode() for name in needed}
        channels.close()
        await again.aclose()
