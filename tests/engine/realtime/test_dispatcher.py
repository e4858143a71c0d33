"""What a browser gets when a method or a topic's policy fails, and how long they may take."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bff.auth.caller import Caller
from bff.connections.messages import Call
from bff.errors import Code, Outcome, Problem
from bff.realtime.dispatcher import Dispatcher
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings
from pydantic import BaseModel
from redis.exceptions import DataError, RedisError

from tests.engine.echo import create_app

ALICE = Caller("alice", "Alice", frozenset({"staff"}), "", 0)


class LateError(ConnectionError):
    """The network fails while a handler cleans up, after its time."""


FAILURES = [
    (ConnectionError("s3cr3t"), Code.SERVICE_UNAVAILABLE, Outcome.UNKNOWN),
    (RedisError("s3cr3t"), Code.SERVICE_UNAVAILABLE, Outcome.UNKNOWN),
    (TimeoutError("s3cr3t"), Code.SERVICE_UNAVAILABLE, Outcome.UNKNOWN),
    (Problem(Code.CONFLICT, outcome=Outcome.DONE), Code.CONFLICT, Outcome.DONE),
    (None, Code.TIMEOUT, Outcome.UNKNOWN),
    (LateError("s3cr3t"), Code.SERVICE_UNAVAILABLE, Outcome.UNKNOWN),
]
"""What a handler raises, or that it does not end, and what the browser gets."""


class Anything(BaseModel):
    value: Any


def dispatcher_of(settings: Settings, realtime: RealtimeRouter, **changes: Any) -> Dispatcher:
    app = create_app(settings.model_copy(update=changes), realtime)
    dispatcher: Dispatcher = app.state.bff.dispatcher
    return dispatcher


async def test_a_value_that_redis_cannot_store_is_a_bug_of_the_handler(settings: Settings) -> None:
    """It is told as `internal` and logged, like any other: not as an unavailable Redis."""
    realtime = RealtimeRouter()

    @realtime.method("failing.call")
    async def fail() -> None:
        raise DataError("a list is no user id")

    dispatcher = dispatcher_of(settings, realtime)
    with pytest.raises(DataError):
        await dispatcher.call(ALICE, Call(service="failing", method="call"))


@pytest.mark.parametrize(("failure", "code", "outcome"), FAILURES, ids=repr)
async def test_a_failure_of_a_method_or_a_policy_is_told_without_its_text(
    settings: Settings, failure: Exception | None, code: Code, outcome: Outcome
) -> None:
    realtime = RealtimeRouter()

    async def fail() -> bool:
        if failure is not None and not isinstance(failure, LateError):
            raise failure
        try:
            await asyncio.Event().wait()
        finally:
            if failure is not None:
                raise failure
        return True

    realtime.method("failing.call")(fail)
    realtime.topic("failing")(fail)
    dispatcher = dispatcher_of(settings, realtime, request_timeout_seconds=0.05)
    with pytest.raises(Problem) as of_method:
        await dispatcher.call(ALICE, Call(service="failing", method="call"))
    with pytest.raises(Problem) as of_policy:
        await dispatcher.check_topics(ALICE, ["failing"])
    for problem in (of_method.value, of_policy.value):
        assert (problem.code, problem.outcome) == (code, outcome)
        assert "s3cr3t" not in str(problem)


async def test_a_model_that_is_no_json_is_an_error_of_the_service_after_the_work(
    settings: Settings,
) -> None:
    realtime = RealtimeRouter()

    @realtime.method("odd.result")
    async def result() -> Anything:
        return Anything(value=object())

    with pytest.raises(Problem) as caught:
        await dispatcher_of(settings, realtime).call(ALICE, Call(service="odd", method="result"))
    assert (caught.value.code, caught.value.outcome) == (Code.SERVICE_ERROR, Outcome.DONE)


@pytest.mark.parametrize(
    ("method", "wanted", "given"),
    [
        ("here", None, 7),
        ("here", 8_000, 8),
        ("here", 20_000, 9),
        ("there", None, 7),
        ("there", 20_000, 9),
        ("quick", None, 5),
        ("quick", 1_000, 1),
        ("quick", 8_000, 5),
        ("slow", None, 9),
        ("slow", 20_000, 9),
    ],
)
def test_the_time_of_a_call_is_limited_by_the_settings_and_its_exposure(
    settings: Settings, method: str, wanted: int | None, given: float
) -> None:
    realtime = RealtimeRouter()

    @realtime.method("work.here")
    async def here() -> None: ...

    realtime.expose("work", methods=["there"])
    realtime.expose("work", methods=["quick"], timeout=5)
    realtime.expose("work", methods=["slow"], timeout=100)
    dispatcher = dispatcher_of(
        settings, realtime, request_timeout_seconds=7, max_request_timeout_seconds=9
    )
    target = dispatcher.check_call(ALICE, "work", method)
    call = Call(service="work", method=method, timeout_ms=wanted)
    assert dispatcher._timeout(call, target) == given


def test_a_topic_without_a_policy_needs_no_scope(settings: Settings) -> None:
    """It may be one to which the server has subscribed the user."""
    realtime = RealtimeRouter()
    for pattern, scopes in (("staff.*", ["staff"]), ("boss.#", ["staff", "boss"]), ("#", [])):

        @realtime.topic(pattern, scopes=scopes)
        async def allow() -> bool:
            return True

    dispatcher = dispatcher_of(settings, realtime)
    topics = ["staff.1", "boss.1.2", "news"]
    assert dispatcher.topics_without_scope(ALICE, topics) == ["boss.1.2"]
    nobody = Caller("bob", "Bob", frozenset(), "", 0)
    assert dispatcher.topics_without_scope(nobody, topics) == ["staff.1", "boss.1.2"]
    assert dispatcher_of(settings, RealtimeRouter()).topics_without_scope(nobody, topics) == []
    assert dispatcher.topic_patterns[-3:] == ["staff.*", "boss.#", "#"]
