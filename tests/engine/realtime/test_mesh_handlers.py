"""Event handlers: which errors lead to a retry; a redelivered event sends nothing twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bff.cluster.messenger import Messenger
from bff.errors import Code, Outcome, Problem
from bff.mesh.events import MeshEvent, RetryEvent
from bff.realtime.injection import HandlerDependencies
from bff.realtime.mesh_handlers import bind_event_handler
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings
from bff.testing import run
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, OutOfMemoryError, ReadOnlyError, ResponseError

from tests.engine.echo import create_app

EVENT = MeshEvent("a", {"user_id": "alice"}, {}, "t", "c", None, "c.digest")


async def _handle(settings: Settings, error: Exception | None) -> None:
    realtime = RealtimeRouter()

    @realtime.event("a", name="handler")
    async def handler(event: MeshEvent, messenger: Messenger) -> None:
        if error is not None:
            raise error

    dependencies = create_app(settings).state.bff.dispatcher._dependencies
    assert isinstance(dependencies, HandlerDependencies)
    bound = bind_event_handler(realtime.event_handlers["handler"], dependencies)
    await bound.handler(EVENT)


@pytest.mark.parametrize(
    "error",
    [
        RedisConnectionError("gone"),
        OSError("gone"),
        TimeoutError(),
        Problem(Code.MESH_UNAVAILABLE),
    ],
    ids=repr,
)
async def test_an_unavailable_server_leads_to_a_retry(settings: Settings, error: Exception) -> None:
    with pytest.raises(RetryEvent):
        await _handle(settings, error)


@pytest.mark.parametrize(
    "error",
    [
        KeyError("user_id"),
        DataError("a list is no user id"),
        Problem(Code.SERVICE_ERROR, outcome=Outcome.DONE),
        Problem(Code.TIMEOUT, outcome=Outcome.UNKNOWN),
    ],
    ids=repr,
)
async def test_other_errors_lead_to_no_retry(settings: Settings, error: Exception) -> None:
    with pytest.raises(type(error)):
        await _handle(settings, error)


async def test_a_redelivered_event_sends_nothing_twice(settings: Settings) -> None:
    realtime = RealtimeRouter()
    sent: list[Any] = []

    @realtime.event("a", name="handler")
    async def handler(event: MeshEvent, messenger: Messenger) -> None:
        sent.append(await messenger.to_user("alice", "news", 0))
        sent.append(await messenger.to_user("alice", "news", 1))

    app = create_app(settings)
    async with run(app) as bff, bff.browser("alice") as alice:
        bound = bind_event_handler(
            realtime.event_handlers["handler"], app.state.bff.dispatcher._dependencies
        )
        for event in (EVENT, EVENT, replace(EVENT, id="c.other")):
            await bound.handler(event)
        await app.state.bff.messenger.to_user("alice", "fence", None)
        await alice.event("fence")
        events = [frame["payload"] for frame in alice.passed_over()]
    assert [event["event"] for event in events] == [0, 1, 0, 1]
    assert [one.id for one in sent[:2]] == [one.id for one in sent[2:4]]
    assert len({event["id"] for event in events}) == 4


@pytest.mark.parametrize(
    ("error", "is_limited"),
    [
        (RedisConnectionError("gone"), False),
        (ReadOnlyError("a replica"), False),
        (OutOfMemoryError("full"), False),
        (ResponseError("MISCONF cannot write to the disk"), False),
        (ResponseError("NOREPLICAS not enough"), False),
        (ResponseError("WRONGTYPE of this key"), True),
        (OSError("MISCONF is no error of Redis"), True),
    ],
    ids=repr,
)
async def test_only_an_outage_of_redis_is_waited_out_without_limit(
    settings: Settings, error: Exception, is_limited: bool
) -> None:
    """Another error is one of this event's command: it must not stop those behind it."""
    with pytest.raises(RetryEvent) as caught:
        await _handle(settings, error)
    assert caught.value.limited is is_limited
