"""What a caller is told is what is known: an answer, not sent, or unknown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest
from bff.errors import Code, Outcome, Problem
from bff.mesh import nuropb, pending_requests
from bff.mesh.client import MeshClient
from bff.mesh.events import EventHandler
from bff.mesh.messages import Delivery, Message
from bff.mesh.service import Service
from bff.mesh.transport import ConnectionLost, MeshStatus, Nacked, Receiver, Unroutable
from bff.settings import Settings
from bff.telemetry.metrics import Metrics
from bff.testing import until
from hypothesis import given, settings
from hypothesis import strategies as st

ANSWER = b'{"result": 7}'
SETTINGS = Settings(
    _env_file=None, app_name="a", amqp_url="memory://", environment="test", jwt_secret="s"
)


@pytest.fixture
def amqp_url() -> str:
    return "memory://"


class ManualTransport:
    """A transport whose confirms and replies come from the test."""

    status = MeshStatus(True, "")
    consumers_down: Mapping[str, str] = {}

    def __init__(self) -> None:
        self.messages: list[Message] = []

    async def start(
        self,
        receiver: Receiver,
        event_handlers: Sequence[EventHandler],
        services: Sequence[Service],
    ) -> None:
        self.receiver = receiver

    async def stop(self) -> None: ...

    async def wait_until_rights_checked(self) -> None: ...

    async def check_queues(
        self, event_handlers: Sequence[EventHandler], services: Sequence[Service]
    ) -> Mapping[str, str]:
        return {}

    async def unconsumed_events(self, handler_names: Iterable[str]) -> Mapping[str, int]:
        return {}

    async def publish(self, message: Message) -> None:
        message.confirm = asyncio.get_running_loop().create_future()
        message.sent = True
        self.messages.append(message)
        await message.confirm

    def confirm(self, error: Exception | None = None) -> None:
        confirm = self.messages[-1].confirm
        assert confirm is not None
        if error is None:
            confirm.set_result(None)
        else:
            confirm.set_exception(error)

    def reply(self, body: bytes = ANSWER) -> None:
        self.receiver.on_reply(self.messages[-1].correlation_id, body)


@pytest.fixture
def transport() -> ManualTransport:
    return ManualTransport()


@pytest.fixture
async def mesh(
    settings: Settings, metrics: Metrics, transport: ManualTransport
) -> AsyncIterator[MeshClient]:
    mesh = MeshClient(settings, metrics, transport)
    await mesh.start()
    yield mesh
    await mesh.stop()


async def _request(mesh: MeshClient, **more: Any) -> asyncio.Task[Any]:
    call = asyncio.create_task(mesh.request("s", "m", {}, timeout=20, **more))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return call


async def test_a_reply_is_the_answer_although_its_confirm_never_comes(
    mesh: MeshClient, transport: ManualTransport
) -> None:
    call = await _request(mesh)
    transport.reply()
    async with asyncio.timeout(15):
        assert await call == 7


@pytest.mark.parametrize("error", [Nacked(), ConnectionLost()], ids=repr)
async def test_a_reply_is_the_answer_whatever_becomes_of_its_confirm(
    mesh: MeshClient, transport: ManualTransport, error: Exception
) -> None:
    late: list[Any] = []
    call = await _request(mesh, late=lambda *answer: late.append(answer))
    transport.confirm(error)
    transport.reply()
    assert await call == 7
    assert late == [], "an answer that the caller has is no late one"


async def test_an_error_that_the_caller_has_is_no_late_answer(
    mesh: MeshClient, transport: ManualTransport
) -> None:
    late: list[Any] = []
    call = await _request(mesh, late=lambda *answer: late.append(answer))
    transport.confirm()
    error = {"error": "NuropbValidationError", "description": "no"}
    transport.reply(json.dumps({"tag": "response", "result": None, "error": error}).encode())
    with pytest.raises(Problem) as caught:
        await call
    assert caught.value.code is Code.INVALID_PARAMS
    assert late == []


async def test_late_answers_that_are_waited_for_are_bounded(
    settings: Settings, transport: ManualTransport
) -> None:
    """Beyond the limit the caller is told at once that the outcome is unknown."""
    few = settings.model_copy(update={"max_pending_requests": 2})
    mesh = MeshClient(few, Metrics(), transport)
    await mesh.start()
    late: list[Any] = []
    for _ in range(3):
        call = await _request(mesh, late=lambda _, problem: late.append(problem.code))
        transport.confirm()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert late == [Code.TIMEOUT]
    transport.receiver.on_replies_lost()
    assert late == [Code.TIMEOUT, *[Code.MESH_UNAVAILABLE] * 2]


async def test_only_the_latest_ended_calls_are_remembered(
    mesh: MeshClient, transport: ManualTransport, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the metric of late replies, by service."""
    monkeypatch.setattr(pending_requests, "MAX_ENDED_REQUESTS", 5)
    for _ in range(20):
        call = await _request(mesh)
        transport.confirm()
        transport.reply()
        await call
    transport.reply()
    assert metrics.registry.get_sample_value("bff_mesh_late_replies_total", {"service": "s"}) == 1
    assert len(mesh._pending_requests._ended) == 5
    assert mesh._pending_requests._total == len(mesh._pending_requests._replies) == 0


@pytest.mark.parametrize(
    ("error", "code", "outcome"),
    [
        (Nacked(), Code.SERVICE_UNAVAILABLE, Outcome.UNKNOWN),
        (ConnectionLost(), Code.MESH_UNAVAILABLE, Outcome.UNKNOWN),
        (Unroutable(), Code.SERVICE_UNAVAILABLE, Outcome.NOT_SENT),
    ],
    ids=["nack", "connection lost", "return"],
)
@pytest.mark.parametrize("kind", ["request", "command", "event"])
async def test_only_a_return_proves_that_nothing_was_sent(
    mesh: MeshClient,
    transport: ManualTransport,
    kind: str,
    error: Exception,
    code: Code,
    outcome: Outcome,
) -> None:
    calls: dict[str, Callable[[], Any]] = {
        "request": lambda: mesh.request("s", "m", {}),
        "command": lambda: mesh.command("s", "m", {}),
        "event": lambda: mesh.publish("a", 1),
    }
    call = asyncio.create_task(calls[kind]())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    transport.confirm(error)
    with pytest.raises(Problem) as caught:
        await call
    assert (caught.value.code, caught.value.outcome) == (code, outcome)
    assert caught.value.retryable is (outcome is Outcome.NOT_SENT)


@pytest.mark.parametrize("replies_first", [True, False])
async def test_a_reply_in_the_turn_of_the_cancellation_is_kept(
    mesh: MeshClient, transport: ManualTransport, replies_first: bool
) -> None:
    kept: list[Any] = []
    call = await _request(mesh, late=lambda result, problem: kept.append((result, problem)))
    transport.confirm()
    await asyncio.sleep(0)
    steps: list[Callable[[], object]] = [call.cancel, transport.reply]
    for step in reversed(steps) if replies_first else steps:
        step()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert kept == [(7, None)]


async def test_a_lost_reply_queue_in_the_turn_of_the_cancellation_is_reported(
    mesh: MeshClient, transport: ManualTransport
) -> None:
    kept: list[Any] = []
    call = await _request(mesh, late=lambda result, problem: kept.append(problem.outcome))
    transport.confirm()
    await asyncio.sleep(0)
    call.cancel()
    transport.receiver.on_replies_lost()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert kept == [Outcome.UNKNOWN]


@given(
    correlation_ids=st.lists(st.text(max_size=8), min_size=2, max_size=2),
    params=st.lists(st.integers(0, 3), min_size=2, max_size=2),
)
@settings(derandomize=True, deadline=None, max_examples=100)
def test_two_calls_have_two_ids_and_a_redelivery_has_one(
    correlation_ids: list[str], params: list[int]
) -> None:
    deliveries = [
        Delivery(
            "s",
            json.dumps({"method": "m", "params": {"n": n}}).encode(),
            correlation_id,
            kind="request",
            reply_to="r",
        )
        for correlation_id, n in zip(correlation_ids, params, strict=True)
    ]
    first, second = (nuropb.decode_request(one.body, one).id for one in deliveries)
    same = deliveries[0] == deliveries[1] and bool(correlation_ids[0])
    assert (first == second) is same


async def test_a_call_that_is_not_sent_yet_outlives_a_lost_reply_queue(
    mesh: MeshClient, transport: ManualTransport
) -> None:
    """It waits for the next connection, within its own time."""
    call = await _request(mesh)
    transport.messages[-1].sent = False
    transport.receiver.on_replies_lost()
    await asyncio.sleep(0)
    assert not call.done()
    transport.messages[-1].sent = True
    transport.reply()
    assert await call == 7


@pytest.mark.parametrize(
    ("topic", "trace_id"),
    [("", "t"), ("a\nb", "t"), ("é" * 128, "t"), ("x" * 256, "t"), ("a", ""), ("a", "x" * 129)],
)
async def test_an_event_whose_topic_or_trace_id_is_invalid_is_refused(
    mesh: MeshClient, transport: ManualTransport, topic: str, trace_id: str
) -> None:
    """A topic has at most 255 bytes in AMQP."""
    with pytest.raises(Problem) as caught:
        await mesh.publish(topic, 1, trace_id=trace_id)
    assert (caught.value.code, caught.value.outcome) == (Code.INVALID_PARAMS, Outcome.NOT_SENT)
    assert transport.messages == []


async def test_the_longest_topic_is_published(mesh: MeshClient, transport: ManualTransport) -> None:
    publishing = asyncio.create_task(mesh.publish("é" * 127 + "x", 1))
    await until(lambda: bool(transport.messages))
    transport.confirm()
    await publishing
    with pytest.raises(Problem, match="invalid_params"):
        await mesh.publish("a", object())


@pytest.mark.parametrize("trace_id", ["", "x" * 129, "a\nb"])
async def test_a_call_with_an_invalid_trace_id_is_refused(
    mesh: MeshClient, transport: ManualTransport, trace_id: str
) -> None:
    for call in (mesh.request, mesh.command):
        with pytest.raises(Problem, match="invalid_params"):
            await call("s", "m", {}, trace_id=trace_id)
    assert transport.messages == []


async def test_a_message_without_a_trace_id_gets_one_and_an_empty_context(
    mesh: MeshClient, transport: ManualTransport
) -> None:
    sending = [
        asyncio.create_task(mesh.publish("a", 1)),
        asyncio.create_task(mesh.command("s", "m", {})),
        asyncio.create_task(mesh.command("s", "m", {}, trace_id="mine")),
    ]
    await until(lambda: len(transport.messages) == 3)
    assert json.loads(transport.messages[0].body)["context"] == {}
    trace_ids = [message.trace_id for message in transport.messages]
    assert [len(one) for one in trace_ids] == [32, 32, 4]
    assert [one.headers["trace_id"] for one in transport.messages] == trace_ids
    assert len(set(trace_ids)) == 3
    for task in sending:
        task.cancel()


async def test_a_late_reply_is_handed_on_once_and_its_call_is_not_kept_meanwhile(
    mesh: MeshClient, transport: ManualTransport, metrics: Metrics
) -> None:
    error = {"error": "NuropbValidationError", "description": "no"}
    for body, expected in (
        (ANSWER, (7, None)),
        (json.dumps({"result": None, "error": error}).encode(), (None, Code.INVALID_PARAMS)),
    ):
        late: list[Any] = []
        call = await _request(mesh, late=lambda *told: late.append(told))  # noqa: B023
        transport.confirm()
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert late == []
        assert transport.messages[-1].body == b"", "only the id is needed"
        transport.reply(body)
        transport.reply(body)
        transport.receiver.on_replies_lost()
        ((result, problem),) = late
        assert (result, problem and problem.code) == expected
    assert metrics.registry.get_sample_value("bff_mesh_late_replies_total", {"service": "s"}) == 4


async def test_a_late_reply_is_waited_for_no_longer_than_results_are_kept(
    settings: Settings, transport: ManualTransport
) -> None:
    mesh = MeshClient(
        settings.model_copy(update={"keep_result_seconds": 0.05}), Metrics(), transport
    )
    await mesh.start()
    late: list[Any] = []
    call = await _request(mesh, late=lambda _, problem: late.append(problem))
    call.cancel()
    await until(lambda: bool(late))
    (problem,) = late
    assert (problem.code, problem.outcome) == (Code.TIMEOUT, Outcome.UNKNOWN)
    transport.reply()
    transport.receiver.on_replies_lost()
    assert late == [problem]


async def test_an_ended_call_without_interest_in_a_late_reply_keeps_nothing(
    mesh: MeshClient, transport: ManualTransport
) -> None:
    call = await _request(mesh)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert mesh._pending_requests._late_requests == {}
    transport.reply()


async def test_a_callback_that_fails_changes_nothing_for_its_caller_and_for_others(
    mesh: MeshClient, transport: ManualTransport, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("a bug")

    late: list[Any] = []
    calls = [
        await _request(mesh, late=one) for one in (fail, fail, lambda *told: late.append(told))
    ]
    transport.receiver.on_reply(transport.messages[0].correlation_id, ANSWER)
    for call in calls:
        call.cancel()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(one) for one in ended] == [asyncio.CancelledError] * 3
    transport.receiver.on_replies_lost()
    ((_, problem),) = late
    assert problem.code is Code.MESH_UNAVAILABLE
    failed = [one.message for one in caplog.records]
    assert failed == ["callback for a late reply failed"] * 2


STEPS = ["confirm", "refuse", "lose", "return", "reply", "no replies", "cancel"]


class Asked:
    """One call of the model below: what happened to it, and what its caller was told."""

    def __init__(self, mesh: MeshClient) -> None:
        self.late: list[Any] = []
        self.steps: list[str] = []
        request = mesh.request("s", "m", {}, timeout=20, late=lambda *told: self.late.append(told))
        self.call = asyncio.create_task(request)

    @property
    def answered(self) -> int:
        """How often somebody got the reply."""
        call = self.call
        has_result = call.done() and not call.cancelled() and call.exception() is None
        return has_result + self.late.count((7, None))

    @property
    def unsure(self) -> bool:
        """The caller does not know what became of the call, and still wants to."""
        if self.call.cancelled():
            return True
        problem = self.call.exception()
        return isinstance(problem, Problem) and problem.outcome is Outcome.UNKNOWN


@given(
    events=st.lists(st.tuples(st.integers(0, 1), st.sampled_from(STEPS), st.booleans())),
)
@settings(derandomize=True, deadline=None, max_examples=150)
def test_each_call_is_told_once_what_became_of_it(events: list[tuple[int, str, bool]]) -> None:
    """Two calls at once, in any order of confirms, replies, losses and cancellations."""

    async def check() -> None:
        transport = ManualTransport()
        mesh = MeshClient(SETTINGS, Metrics(), transport)
        await mesh.start()
        asked = []
        for _ in range(2):
            asked.append(Asked(mesh))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        messages = list(transport.messages)
        for index, step, pause in events:
            one, message = asked[index], messages[index]
            possible = "return" not in one.steps
            if step == "no replies":
                transport.receiver.on_replies_lost()
                for other in asked:
                    other.steps.append(step)
            elif step == "cancel":
                one.call.cancel()
            elif step == "reply" and possible:
                transport.receiver.on_reply(message.correlation_id, ANSWER)
                one.steps.append(step)
            elif message.confirm is not None and not message.confirm.done() and possible:
                if step == "confirm":
                    message.confirm.set_result(None)
                elif step != "return" or "reply" not in one.steps:
                    error = {"refuse": Nacked(), "lose": ConnectionLost(), "return": Unroutable()}
                    message.sent = step != "return"
                    message.confirm.set_exception(error[step])
                one.steps.append(step)
            if pause:
                await asyncio.sleep(0)
        for one in asked:
            one.call.cancel()
            await asyncio.gather(one.call, return_exceptions=True)
        transport.receiver.on_replies_lost()
        for one in asked:
            replied = "reply" in one.steps
            if replied and "no replies" not in one.steps[: one.steps.index("reply")]:
                assert one.answered == 1, "the first reply is never lost, nor told twice"
            assert len(one.late) <= 1
            if not one.unsure:
                assert one.late == []
            if one.call.cancelled() and "return" not in one.steps:
                assert len(one.late) == 1, "a caller that stopped waiting is told"
        pending = mesh._pending_requests
        assert not pending._total
        assert not pending._replies
        assert not pending._late_requests

    asyncio.run(check())
