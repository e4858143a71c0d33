"""A channel counts as subscribed only while Redis has confirmed it on the open connection."""

from __future__ import annotations

import asyncio

import pytest
from bff.cluster.pubsub_channels import PubSubChannels


class PubSub:
    """Records requests; the test confirms them."""

    def __init__(self) -> None:
        self.subscribed: list[str] = []
        self.unsubscribed: list[str] = []
        self.error: Exception | None = None

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
