"""What one user can leave in Redis, and how often one user can connect, is bounded."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from bff.connections.close_codes import CloseCode
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings
from bff.testing import RunningBff, run
from websockets.exceptions import ConnectionClosed

from tests.engine.echo import create_app

CONNECTIONS, TOPICS = 2, 5
MOST = CONNECTIONS * TOPICS
CONNECTS = 60

realtime = RealtimeRouter()


@realtime.topic("x.#")
async def may_have_any() -> bool:
    return True


@pytest.fixture
async def bff(settings: Settings) -> AsyncIterator[RunningBff]:
    limits = {"max_connections_per_user": CONNECTIONS, "max_topics_per_connection": TOPICS}
    async with run(create_app(settings.model_copy(update=limits), realtime)) as running:
        yield running


async def keys(bff: RunningBff, pattern: str) -> int:
    redis = bff.engine.redis
    return len([key async for key in redis.scan_iter(f"{bff.settings.prefix}:{pattern}")])


async def test_a_user_who_changes_topics_without_end_leaves_few_keys(bff: RunningBff) -> None:
    async with bff.browser() as alice, bff.browser("bob") as bob:
        for n in range(MOST // TOPICS):
            topics = [f"x.{n}.{i}" for i in range(TOPICS)]
            assert (await alice.subscribe(*topics))["error"] is None
            await alice.ask({"type": "unsubscribe", "payload": {"topics": topics, "trace_id": "u"}})
        refused = (await alice.subscribe("x.b"))["error"]
        assert (refused["code"], refused["retryable"]) == ("rate_limited", True)
        assert 0 < refused["retry_after_ms"] <= 1000 * bff.settings.unused_topic_seconds / MOST
        assert await keys(bff, "{t:x.*") == MOST
        assert (await bob.subscribe("x.b"))["error"] is None
        assert (await alice.subscribe("x.b"))["error"] is None  # bob has made its key
        async with bff.event_stream(
            {"Authorization": f"Bearer {bff.token('alice')}"}, topics="x.c"
        ) as source:
            assert await source.closed() == CloseCode.TOO_MANY_REQUESTS
    assert await keys(bff, "{t:x.*") == MOST + 1


async def test_more_topics_than_a_user_can_have_are_forbidden_as_waiting_would_not_help(
    bff: RunningBff,
) -> None:
    async with bff.browser() as alice:
        refused = (await alice.subscribe(*(f"x.{n}" for n in range(MOST + 1))))["error"]
        assert (refused["code"], refused["retryable"]) == ("forbidden", False)
        assert (await alice.subscribe("x.a"))["error"] is None


async def test_a_user_who_reconnects_in_a_loop_is_refused_on_every_instance(
    bff: RunningBff, settings: Settings
) -> None:
    for _ in range(CONNECTS // 2):
        async with bff.browser(), bff.browser():
            pass
    async with run(create_app(bff.settings, realtime)) as other, bff.browser("bob"):
        instances = (bff,) if settings.embedded else (bff, other)
        for instance in instances:
            with pytest.raises(ConnectionClosed) as closed:
                async with instance.browser():
                    pass
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == CloseCode.TOO_MANY_REQUESTS
    assert 0 < await bff.engine.redis.ttl(f"{settings.prefix}:{{u:alice}}:connects") <= 60
