"""What each act leaves in Redis: the table of docs/scaling.md, measured on a real server."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bff.auth.caller import Caller
from bff.auth.tickets import Tickets
from bff.cluster import index as index_module
from bff.cluster import messenger as messenger_module
from bff.cluster import presence as presence_module
from bff.cluster.messenger import Messenger
from bff.errors import Problem
from bff.mesh.events import REDELIVERY_SECONDS, MeshEvent
from bff.realtime.mesh_handlers import bind_event_handler
from bff.realtime.router import RealtimeRouter
from bff.redis.client import RedisClient
from bff.settings import Settings
from bff.testing import until

from tests.engine.cluster.conftest import ClusterMember, StartInstance
from tests.engine.echo import create_app

DOCUMENT = Path(__file__).parents[3] / "docs" / "scaling.md"
FEW = 20
MANY = [1000, pytest.param(10_000, marks=pytest.mark.long)]
STREAM, POSITION, SHORT, FOREVER = 600, 24 * 3600, 600, -1
"""Lives in seconds. `SHORT` is that of tickets and of the count of connects here: longer than in
truth, so that they live until they are measured."""

Act = Callable[[ClusterMember, int], Awaitable[Any]]


@pytest.fixture
def redis_url(redis_url: str) -> str:
    if redis_url == "memory://":
        pytest.skip("the in-process Redis does not count bytes: set TEST_REDIS_URL")
    return redis_url


async def _connect(member: ClusterMember, n: int) -> None:
    await member.join(f"user-{n:06}")


async def _message(member: ClusterMember, n: int) -> None:
    await member.messenger.to_user(f"user-{n:06}", "news", {"text": "x" * 100})


async def _message_with_key(member: ClusterMember, n: int) -> None:
    key = f"order-{n:06}"
    await member.messenger.to_user(f"user-{n:06}", "news", 1, idempotency_key=key)


async def _message_to_nobody(member: ClusterMember, n: int) -> None:
    await member.messenger.to_user(f"nobody-{n:06}", "news", {"text": "x" * 100})


async def _fill_stream(member: ClusterMember, n: int) -> None:
    if n < FEW:
        for _ in range(member.messenger._settings.max_stream_length):
            await member.messenger.to_user(f"busy-{n:06}", "news", {"text": "x" * 100})


async def _topic_message(member: ClusterMember, n: int) -> None:
    await member.messenger.to_topic(f"topic-{n:06}", {"text": "x" * 100})


async def _subscribe(member: ClusterMember, n: int) -> None:
    (connection,) = member.registry.by_user(f"user-{n:06}")
    await member.subscriptions.subscribe(connection, {f"empty-{n:06}": None})


async def _ticket(member: ClusterMember, n: int) -> None:
    caller = Caller(f"user-{n:06}", "A User", frozenset({"orders"}), "s", int(time.time()) + 600)
    tickets = Tickets(member.pipeline, member.messenger._settings)
    await tickets.issue(caller, "https://app.example.com")


class Events:
    """Events that an event handler has handled; their acks are on the way."""

    def __init__(self, settings: Settings) -> None:
        realtime = RealtimeRouter()

        @realtime.event("orders.placed", name="order_placed")
        async def handle(event: MeshEvent, messenger: Messenger) -> None:
            await messenger.to_user(event.payload, "news", 1)

        self._bff = create_app(settings).state.bff
        dependencies = self._bff.dispatcher._dependencies
        self._handler = bind_event_handler(realtime.event_handlers["order_placed"], dependencies)
        self._events: list[MeshEvent] = []

    async def handle(self, _: ClusterMember, n: int) -> None:
        user, id_ = f"user-{n:06}", f"{n:032}.0123456789abcdef"
        event = MeshEvent("orders.placed", user, {}, None, id_[:32], None, id_)
        await self._handler.handler(event)
        self._events.append(event)

    def settle(self) -> None:
        for event in self._events:
            for function in event.on_settled:
                function()
        self._events.clear()

    async def close(self) -> None:
        await self._bff.cluster.pipeline.close()
        await self._bff.redis.aclose()


@pytest.fixture
def scan(redis: RedisClient, settings: Settings) -> Callable[[], Awaitable[set[bytes]]]:
    """All keys, without those of the instances and the presence queue."""

    async def find() -> set[bytes]:
        found = {key async for key in redis.scan_iter(f"{settings.prefix}:*", count=5000)}
        fixed = (b"{instances}", b"{presence}", b"{all}")
        return {key for key in found if not any(name in key for name in fixed)}

    return find


async def each(keys: list[bytes], ask: Callable[[bytes], Awaitable[Any]]) -> list[int]:
    """The answer for each key. The client of a cluster has few connections."""
    answers: list[int] = []
    for first in range(0, len(keys), 40):
        answers += await asyncio.gather(*(ask(key) for key in keys[first : first + 40]))
    return answers


async def repeat(act: Callable[[int], Awaitable[Any]], times: int) -> None:
    """Not all at once: a command that waits for 10,000 others would time out."""
    for first in range(0, times, 200):
        await asyncio.gather(*map(act, range(first, min(first + 200, times))))


def kind_of(key: bytes) -> str:
    """The part of a key that the table names."""
    text = key.decode()
    if "}" in text:
        return text.rpartition("}:")[2].partition(":")[0]
    return text.split(":")[2]


def table() -> dict[tuple[str, str], int]:
    """Bytes, by act and kind of key, as docs/scaling.md promises them."""
    section = DOCUMENT.read_text().partition("## What each act leaves in Redis")[2]
    promised: dict[tuple[str, str], int] = {}
    act = ""
    for line in section.partition("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and cells[1].startswith("`"):
            act = cells[0] or act
            promised[act, cells[1].split("`")[1].strip(":…")] = int(cells[2])
    return promised


@pytest.mark.parametrize("many", MANY)
async def test_each_act_leaves_what_the_table_says(
    many: int,
    start: StartInstance,
    redis: RedisClient,
    settings: Settings,
    scan: Callable[[], Awaitable[set[bytes]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(index_module, "_CONNECTS_SECONDS", SHORT)
    member = await start(presence_grace_seconds=0, ticket_seconds=SHORT)
    events = Events(settings)
    assert await scan() == set()
    presence = {"meta": STREAM, "stream": STREAM, "idem": 600}
    acts: list[tuple[str, Act, dict[str, int]]] = [
        ("a ticket", _ticket, {"ticket": SHORT, "tickets": SHORT}),
        ("a connect", _connect, {"connections": FOREVER, "meta": POSITION, "connects": SHORT}),
        ("a message to a connected user", _message, {"stream": STREAM}),
        ("a subscription to a topic without messages", _subscribe, {"meta": STREAM}),
        ("an event that is handled", events.handle, {"idem": REDELIVERY_SECONDS}),
        ("a message with `idempotency_key`", _message_with_key, {"idem": POSITION}),
        ("a message to an unknown user", _message_to_nobody, {"meta": STREAM, "stream": STREAM}),
        ("a message to a topic", _topic_message, {"meta": STREAM, "stream": STREAM}),
    ]
    acts.append(("a full stream, 200 messages of 180 bytes", _fill_stream, acts[-1][2]))
    measured: dict[tuple[str, str], int] = {}
    known: set[bytes] = set()

    async def measure(act: str, promised: dict[str, int], new: set[bytes]) -> None:
        number = FEW if "full" in act else many
        assert Counter(map(kind_of, new)) == dict.fromkeys(promised, number), act
        for kind, life in promised.items():
            keys = [key for key in new if kind_of(key) == kind]
            sizes = await each(keys, lambda key: redis.memory_usage(key, samples=0))
            measured[act, kind] = round(sum(sizes) / len(keys))
            lives = await each(keys, redis.ttl)
            passed = time.monotonic() - began + 1
            assert life - passed <= min(lives) <= max(lives) <= life, (act, kind)

    async def announced() -> bool:
        return len([key for key in await scan() if b"{t:presence." in key]) == 3 * many

    for act, carry_out, promised in acts:
        began = time.monotonic()
        await repeat(partial(carry_out, member), many)
        if carry_out is _connect:
            await until(announced)
        new = await scan() - known
        changes = {key for key in new if b"{t:presence." in key}
        await measure(act, promised, new - changes)
        if changes:
            await measure("a change of presence, if it is watched", presence, changes)
        known |= new

    events.settle()

    async def released() -> bool:
        keys = [key for key in known if b":idem:" in key and b"/order_placed/" in key]
        assert len(keys) == many
        return max(await each(keys, redis.ttl)) <= 60

    await until(released)
    for one in tuple(member.registry):
        member.subscriptions.leave(one)
    await member.index.remove_unregistered()
    gone = {kind_of(key) for key in known - await scan()}
    assert gone == {"connections"}
    await events.close()

    promised_bytes = table()
    assert promised_bytes.keys() == measured.keys()
    for place, size in measured.items():
        assert promised_bytes[place] == pytest.approx(size, rel=0.25), (place, measured)


@pytest.mark.parametrize("many", MANY)
async def test_acts_without_a_row_leave_nothing(
    many: int,
    start: StartInstance,
    settings: Settings,
    scan: Callable[[], Awaitable[set[bytes]]],
) -> None:
    member = await start()
    messenger, tickets = member.messenger, Tickets(member.pipeline, settings)

    async def act(n: int) -> None:
        await messenger.to_all("news", n)
        await messenger.to_connection(f"gone.{n:016}", "news", n)
        await messenger.close_user(f"nobody-{n:06}")
        await messenger.subscribe(f"nobody-{n:06}", "news")
        await member.presence.of([f"nobody-{n:06}"])
        await member.index.connections_of(f"nobody-{n:06}")
        with pytest.raises(Problem):
            await tickets.redeem(f"invented-{n:06}", None)

    await repeat(act, many)
    assert await scan() == set()


@pytest.mark.parametrize("many", [100, pytest.param(10_000, marks=pytest.mark.long)])
async def test_everything_is_gone_after_its_life(
    many: int,
    start: StartInstance,
    settings: Settings,
    scan: Callable[[], Awaitable[set[bytes]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Time passes faster: every life is one or two seconds."""
    monkeypatch.setattr(presence_module, "_ANNOUNCED_SECONDS", 1)
    monkeypatch.setattr(messenger_module, "_RELEASED_SECONDS", 1)
    monkeypatch.setattr(index_module, "_CONNECTS_SECONDS", 1)
    short = {
        "stream_retention_seconds": 1,
        "position_retention_seconds": 2,
        "ticket_seconds": 1,
        "stream_check_seconds": 0.3,
        "presence_grace_seconds": 0,
    }
    member = await start(**short)
    events = Events(settings.model_copy(update=short))
    acts = (_connect, _subscribe, _message, _message_with_key, _message_to_nobody, _topic_message)
    for act in (*acts, _ticket):
        await repeat(partial(act, member), many)
    await repeat(partial(events.handle, member), many)
    for connection in tuple(member.registry):
        member.subscriptions.leave(connection)
    await member.index.remove_unregistered()
    assert await scan()
    events.settle()

    async def all_gone() -> bool:
        return not await scan()

    await until(all_gone, seconds=60)
    await events.close()
