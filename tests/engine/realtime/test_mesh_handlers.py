"""Event handlers: which errors lead to a retry; a redelivered event sends nothing twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from bff.cluster.messenger import Messenger
from bff.errors import Code, Outcome, Problem
from bff.mesh.client import MeshClient
from bff.mesh.events import MeshEvent, RetryEvent
from bff.mesh.messages import MeshRequest
from bff.realtime.injection import HandlerDependencies
from bff.realtime.mesh_handlers import _bind_method, bind_event_handler
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings
from bff.testing import run
from pydantic import BaseModel
from redis.exceptions import (
    ClusterDownError,
    DataError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

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


async def test_no_event_is_taken_while_the_lease_cannot_be_renewed(settings: Settings) -> None:
    """Redis is unavailable then: see `EventHandler.unavailable`."""
    realtime = RealtimeRouter()

    @realtime.event("a", name="handler")
    async def handler(event: MeshEvent) -> None: ...

    app = create_app(settings, realtime)
    event_handler = app.state.bff.mesh._event_handlers[-1]
    assert event_handler.unavailable() == "Redis: no lease yet"
    async with run(app):
        assert event_handler.unavailable() == ""
        app.state.bff.index.lease_error = "gone"
        assert event_handler.unavailable() == "Redis: gone"


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
        (RedisTimeoutError("slow"), False),
        (ClusterDownError("a part is away"), False),
        (MasterDownError("no link"), False),
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


async def test_a_value_that_redis_cannot_store_is_a_bug_of_the_served_method(
    settings: Settings,
) -> None:
    """Its caller is told `internal`, and not to try again later."""
    realtime = RealtimeRouter()

    @realtime.mesh_method("order")
    async def order(messenger: Messenger) -> None:
        raise DataError("a list is no user id")

    app = create_app(settings)
    answer = _bind_method(realtime.served_methods["order"], app.state.bff.dispatcher._dependencies)
    with pytest.raises(DataError):
        await answer(MeshRequest("order", {}, {}, "t", "c", "a"))


class Order(BaseModel):
    number: int


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (None, None),
        (RedisConnectionError("gone"), Code.SERVICE_UNAVAILABLE),
        (Problem(Code.CONFLICT, outcome=Outcome.UNKNOWN), Code.CONFLICT),
    ],
    ids=repr,
)
async def test_a_call_of_a_service_that_is_delivered_again_sends_nothing_twice(
    settings: Settings, failure: Exception | None, code: Code | None
) -> None:
    """Its caller gets the same answer; the keys that prevent it go when it is settled."""
    realtime = RealtimeRouter()

    @realtime.mesh_method("order")
    async def order(params: Order, messenger: Messenger, mesh: MeshClient) -> Any:
        sent = await messenger.to_user("alice", "news", params.number)
        if failure is not None:
            raise failure
        return [sent.id, (await mesh.request("echo", "say", {}))["user_id"]]

    app = create_app(settings)
    async with run(app) as bff, bff.browser("alice") as alice:
        answer = _bind_method(
            realtime.served_methods["order"], app.state.bff.dispatcher._dependencies
        )
        answers: list[Any] = []
        for call_id in ("a", "a", "b"):
            request = MeshRequest("order", {"number": 7}, {"user_id": "alice"}, "t", "c", call_id)
            try:
                answers.append(await answer(request))
            except Problem as problem:
                answers.append((problem.code, problem.outcome))
            assert len(request.on_settled) == 1
        await app.state.bff.messenger.to_user("alice", "fence", None)
        await alice.event("fence")
        frames = [frame["payload"] for frame in alice.passed_over()]
    news = [frame for frame in frames if frame["topic"] == "news"]
    assert [one["event"] for one in news] == [7, 7]
    if failure is None:
        assert answers == [[news[at]["id"], "alice"] for at in (0, 0, 1)]
    else:
        assert answers == [(code, Outcome.UNKNOWN)] * 3
