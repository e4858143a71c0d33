"""Cancellations are reported and late replies stored, however many there are at once."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
from bff.connections.messages import Event
from bff.errors import Code, Outcome, Problem
from bff.realtime import follow_ups
from bff.realtime.follow_ups import MAX_NOTIFICATIONS, FollowUps, LateReply
from bff.realtime.injection import HandlerDependencies
from bff.realtime.mesh_proxy import MeshProxy
from bff.settings import Settings
from bff.testing import until

AT_ONCE = 2_400


class FakeMesh:
    def __init__(self) -> None:
        self.sent: list[str] = []
        self.away = False
        self.running = self.most = 0

    async def command(self, service: str, method: str, params: dict[str, Any], **_: Any) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        if self.away:
            raise Problem(Code.SERVICE_UNAVAILABLE)
        self.sent.append(params["trace_id"])


class FakeMessenger:
    def __init__(self) -> None:
        self.stored: list[dict[str, Any]] = []
        self.failures = 0
        self.keys: list[str] = []
        self.key_life = 0

    def with_key_life(self, seconds: int) -> FakeMessenger:
        self.key_life = seconds
        return self

    async def to_user(self, user_id: str, topic: str, event: Any, *, idempotency_key: str) -> None:
        self.keys.append(idempotency_key)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("gone")
        Event(topic, event).encode_start(user_id)
        self.stored.append(event)


@pytest.fixture
def mesh() -> FakeMesh:
    return FakeMesh()


@pytest.fixture
def messenger() -> FakeMessenger:
    return FakeMessenger()


@pytest.fixture
def work(mesh: FakeMesh, messenger: FakeMessenger, settings: Settings) -> FollowUps:
    parts = SimpleNamespace(mesh=mesh, messenger=messenger, settings=settings)
    return FollowUps(cast(HandlerDependencies, parts))


@pytest.fixture
def limited(mesh: FakeMesh, messenger: FakeMessenger, settings: Settings) -> FollowUps:
    """With `MAX_PENDING_REQUESTS=10`."""
    few = settings.model_copy(update={"max_pending_requests": 10})
    parts = SimpleNamespace(mesh=mesh, messenger=messenger, settings=few)
    return FollowUps(cast(HandlerDependencies, parts))


async def test_every_cancellation_is_reported(work: FollowUps, mesh: FakeMesh) -> None:
    for number in range(AT_ONCE):
        work.cancelled("shop", "cancel", "alice", f"{number}")
    await work.stop()
    assert sorted(mesh.sent, key=int) == [str(number) for number in range(AT_ONCE)]
    assert mesh.most <= MAX_NOTIFICATIONS


@pytest.mark.parametrize("cause", ["the service is away", "no time is left"])
async def test_cancellations_that_are_not_reported_are_counted_in_one_line(
    work: FollowUps,
    mesh: FakeMesh,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    cause: str,
) -> None:
    mesh.away = cause == "the service is away"
    if not mesh.away:
        monkeypatch.setattr(follow_ups, "_NOTIFY_SECONDS", 0)
    for number in range(AT_ONCE):
        work.cancelled("shop", "cancel", "alice", f"{number}")
    await work.stop()
    assert mesh.sent == []
    lines = [record for record in caplog.records if record.levelno >= logging.INFO]
    assert {record.message for record in lines} == {"could not notify services of cancelled calls"}
    assert sum(vars(record)["count"] for record in lines) == AT_ONCE
    away = "service_unavailable: The service is not available"
    assert {vars(record)["reason"] for record in lines} == {
        away if mesh.away else "not sent in time"
    }
    assert len(lines) <= 3, "one for each second"


async def test_reports_beyond_the_limit_are_not_sent(
    limited: FollowUps, mesh: FakeMesh, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(25):
        limited.cancelled("shop", "cancel", "alice", f"{number}")
    await limited.stop()
    assert len(mesh.sent) == 10
    (line,) = caplog.records
    assert (vars(line)["count"], vars(line)["reason"]) == (15, "too many at once")


async def test_late_replies_beyond_the_limit_are_counted_in_one_line(
    limited: FollowUps,
    messenger: FakeMessenger,
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    for number in range(25):
        LateReply(limited, "alice", f"{number}", "t")(number, None)
    warnings = [one.message for one in recwarn if one.category is RuntimeWarning]
    assert not warnings, "what is dropped is no coroutine that nobody awaits"
    await limited.stop()
    assert len(messenger.stored) == 10
    (line,) = caplog.records
    assert (vars(line)["count"], vars(line)["limit"]) == (15, 10)


@pytest.mark.parametrize("depth", [1, 200, *range(245, 256), 1000])
async def test_a_kept_result_that_is_nested_too_deeply_is_reported(
    work: FollowUps, messenger: FakeMessenger, depth: int
) -> None:
    result: Any = 1
    for _ in range(depth):
        result = [result]
    LateReply(work, "alice", "b-1", "t-1")(result, None)
    await work.stop()
    (event,) = messenger.stored
    assert event["trace_id"] == "b-1"
    if event["error"] is None:
        assert event["result"] == result
    else:
        assert (event["error"]["code"], event["error"]["outcome"]) == ("service_error", "done")
    assert (event["error"] is None) is (depth <= 251)


@pytest.mark.parametrize(
    ("problem", "outcome"),
    [(None, "done"), (Problem(Code.CONFLICT, "x" * 500, outcome=Outcome.UNKNOWN), "unknown")],
    ids=["result", "error"],
)
async def test_a_late_reply_that_no_queue_can_hold_is_reported_and_the_largest_is_sent(
    mesh: FakeMesh,
    messenger: FakeMessenger,
    settings: Settings,
    problem: Problem | None,
    outcome: str,
) -> None:
    result = "x" * 500 if problem is None else None
    whole = {"trace_id": "b-1", "result": result, "error": problem and problem.as_error()}
    size = len(Event(follow_ups.LATE_REPLY_TOPIC, whole).encode_start("user"))
    for limit in (size, size - 1):
        changed = settings.model_copy(update={"max_queue_bytes": limit})
        parts = SimpleNamespace(mesh=mesh, messenger=messenger, settings=changed)
        work = FollowUps(cast(HandlerDependencies, parts))
        LateReply(work, "alice", "b-1", "t-1")(result, problem)
        await work.stop()
    sent, reported = messenger.stored
    assert sent == whole
    assert (reported["trace_id"], reported["result"]) == ("b-1", None)
    error = reported["error"]
    assert (error["code"], error["outcome"]) == ("service_error", outcome)
    assert error["description"] == "The reply is too large"


@pytest.mark.parametrize("failures", [2, 10_000])
async def test_a_late_reply_is_tried_again_as_the_same_message_until_its_time_is_over(
    mesh: FakeMesh,
    messenger: FakeMessenger,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failures: int,
) -> None:
    keep = 15 if failures == 2 else 0.3
    changed = settings.model_copy(update={"keep_result_seconds": keep})
    parts = SimpleNamespace(mesh=mesh, messenger=messenger, settings=changed)
    work = FollowUps(cast(HandlerDependencies, parts))
    messenger.failures = failures
    LateReply(work, "alice", "b-1", "t-1")(1, None)
    await until(lambda: not len(work._late_replies))
    assert set(messenger.keys) == {"result/t-1"}
    assert messenger.key_life > keep, "a try may be on its way when the time is over"
    if failures == 2:
        assert [one["result"] for one in messenger.stored] == [1]
    else:
        assert messenger.stored == []
        assert len(messenger.keys) < 100, "it pauses between tries"
        facts = vars(caplog.records[-1])
        assert (facts["message"], facts["trace_id"], facts["user"]) == (
            "late reply lost: Redis unavailable",
            "t-1",
            "alice",
        )


async def test_a_reply_in_the_turn_of_a_cancellation_by_the_browser_is_discarded(
    work: FollowUps, messenger: FakeMessenger
) -> None:
    late = LateReply(work, "alice", "b-1", "t-1")
    late(1, None)
    late.discard = True
    await work.stop()
    assert messenger.stored == []


@pytest.mark.parametrize("failures", [1, 3])
async def test_failures_of_one_second_are_one_line(
    work: FollowUps,
    mesh: FakeMesh,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    failures: int,
) -> None:
    """The line comes while the instance runs, not when it stops."""
    monkeypatch.setattr(follow_ups, "_SUMMARY_SECONDS", 0.1)
    mesh.away = True
    for number in range(failures):
        work.cancelled("shop", "cancel", "alice", f"{number}")
    await until(lambda: bool(caplog.records))
    work.cancelled("shop", "cancel", "alice", "later")
    await until(lambda: len(caplog.records) == 2)
    assert [vars(record)["count"] for record in caplog.records] == [failures, 1]
    facts = vars(caplog.records[0])
    assert (facts["service"], facts["method"]) == ("shop", "cancel")
    await work.stop()
    assert len(caplog.records) == 2


async def test_a_proxy_stops_when_its_late_replies_are_stored(
    mesh: FakeMesh, messenger: FakeMessenger, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_store = asyncio.Event()
    to_user = messenger.to_user

    async def slowly(*arguments: Any, **options: Any) -> None:
        await may_store.wait()
        await to_user(*arguments, **options)

    monkeypatch.setattr(messenger, "to_user", slowly)
    parts = SimpleNamespace(mesh=mesh, messenger=messenger, settings=settings)
    proxy = MeshProxy(cast(HandlerDependencies, parts))
    LateReply(proxy._follow_ups, "alice", "browser", "mesh")("result", None)
    stopping = asyncio.create_task(proxy.stop())
    await asyncio.wait([stopping], timeout=0.05)
    assert not stopping.done()
    may_store.set()
    await stopping
    assert [event["result"] for event in messenger.stored] == ["result"]
