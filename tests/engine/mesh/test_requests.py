"""A call returns once, or fails within its deadline with the right outcome."""

from __future__ import annotations

import asyncio
import time

import pytest
from bff.errors import Code, Outcome, Problem
from bff.mesh import nuropb
from bff.mesh.client import MeshClient
from bff.mesh.memory import CONCURRENT_CALLS
from bff.mesh.messages import Kind, Message
from bff.mesh.pending_requests import PendingRequests
from bff.mesh.receiver import MessageReceiver, RetryLimits
from bff.mesh.service import Service
from bff.settings import Settings
from bff.telemetry.metrics import Metrics
from bff.testing import until
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.engine.mesh.conftest import StartClient
from tests.engine.mesh.engines import Engine


async def test_a_request_is_answered(mesh: MeshClient, service: str) -> None:
    assert await mesh.request(service, "echo", {"a": [1, "é"]}, context={}) == {"a": [1, "é"]}


async def test_the_service_receives_the_context(mesh: MeshClient, service: str) -> None:
    context = {"user_id": "u1", "Authorization": "token"}
    seen = await mesh.request(service, "context", {}, context=context, trace_id="t1")
    assert seen == {**context, "trace_id": "t1"}


async def test_a_client_can_call_with_another_context(mesh: MeshClient, service: str) -> None:
    twin = mesh.with_context({"user_id": "u1"})
    seen = await twin.request(service, "context", {}, trace_id="t1")
    assert seen == {"user_id": "u1", "trace_id": "t1"}
    assert "user_id" not in await mesh.request(service, "context", {})


async def test_concurrent_requests_get_their_own_results(mesh: MeshClient, service: str) -> None:
    calls = [mesh.request(service, "echo", {"n": n}, context={}) for n in range(200)]
    assert await asyncio.gather(*calls) == [{"n": n} for n in range(200)]


async def test_a_problem_of_a_service_reaches_the_caller(mesh: MeshClient, service: str) -> None:
    with pytest.raises(Problem) as caught:
        await mesh.request(service, "refuse", {}, context={})
    assert caught.value.code is Code.INVALID_PARAMS
    assert caught.value.description == "a must be positive"
    assert caught.value.outcome is Outcome.DONE


async def test_an_exception_of_a_service_is_logged_and_hidden_from_the_caller(
    mesh: MeshClient, service: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Problem) as caught:
        await mesh.request(service, "fail", {}, context={}, trace_id="trace-7")
    assert caught.value.code is Code.SERVICE_ERROR
    assert caught.value.outcome is Outcome.DONE
    assert "password" not in caught.value.description
    assert "a password in here" in caplog.text
    (failed,) = (one for one in caplog.records if one.message == "service method failed")
    assert vars(failed)["trace_id"] == "trace-7"
    (told,) = (one for one in caplog.records if one.message == "service returned an error")
    facts = {"service": service, "method": "fail", "trace_id": "trace-7"}
    assert facts.items() <= vars(told).items()


async def test_a_second_reply_is_only_counted(
    mesh: MeshClient, service: str, metrics: Metrics
) -> None:
    """NuroPb sends a second reply after an exception; `tests/e2e` tests it with NuroPb."""
    correlation_id = await mesh.request(service, "correlation_id", {}, context={})
    receiver = MessageReceiver(
        mesh._pending_requests, nuropb, metrics, lambda: None, RetryLimits(1, 1)
    )
    receiver.on_reply(correlation_id, b'{"result": "a second one"}')
    receiver.on_reply("unknown-id", b"{}")
    for label in (service, "unknown"):
        assert _value(metrics, "bff_mesh_late_replies_total", {"service": label}) == 1


async def test_an_unknown_method_is_not_found(mesh: MeshClient, service: str) -> None:
    with pytest.raises(Problem) as caught:
        await mesh.request(service, "nothing", {}, context={})
    assert caught.value.code is Code.NOT_FOUND


async def test_a_call_to_an_unknown_service_fails_at_once(
    mesh: MeshClient, metrics: Metrics
) -> None:
    async with asyncio.timeout(15):
        with pytest.raises(Problem) as caught:
            await mesh.request("no-such-service", "echo", {}, context={}, timeout=30)
        with pytest.raises(Problem):
            await mesh.command("no-such-service", "echo", {}, context={}, timeout=30)
    assert caught.value.code is Code.SERVICE_UNAVAILABLE
    assert caught.value.outcome is Outcome.NOT_SENT
    assert caught.value.retryable
    labels = {"service": "unknown", "outcome": "service_unavailable"}
    assert _value(metrics, "bff_mesh_calls_total", labels) == 2
    assert "no-such-service" not in str(list(metrics.registry.collect()))


@pytest.mark.parametrize(
    ("service", "method"), [("a b", "m"), ("", "m"), ("x" * 200, "m"), ("s", "_private"), ("s", "")]
)
async def test_invalid_names_are_refused_before_sending(
    mesh: MeshClient, service: str, method: str
) -> None:
    with pytest.raises(Problem) as caught:
        await mesh.request(service, method, {}, context={})
    assert caught.value.code is Code.INVALID_PARAMS


async def test_parameters_that_are_not_json_are_refused(mesh: MeshClient, service: str) -> None:
    with pytest.raises(Problem) as caught:
        await mesh.request(service, "echo", {"a": object()}, context={})
    assert caught.value.code is Code.INVALID_PARAMS


async def test_a_slow_service_is_a_timeout_and_then_a_late_reply(
    mesh: MeshClient, service: str, metrics: Metrics
) -> None:
    with pytest.raises(Problem) as caught:
        await mesh.request(service, "wait", {"seconds": 2}, context={}, timeout=0.5)
    assert caught.value.code is Code.TIMEOUT
    assert caught.value.outcome is Outcome.UNKNOWN
    assert not caught.value.retryable
    late = {"service": service}
    await until(lambda: _value(metrics, "bff_mesh_late_replies_total", late) == 1)
    labels = {"service": service, "outcome": "timeout"}
    assert _value(metrics, "bff_mesh_calls_total", labels) == 1


@pytest.mark.parametrize("timeout", [0, -5])
async def test_a_call_whose_deadline_has_passed_is_not_sent(
    mesh: MeshClient, service: str, timeout: float
) -> None:
    for call in (mesh.request, mesh.command):
        with pytest.raises(Problem) as caught:
            await call(service, "note", {"text": "late"}, context={}, timeout=timeout)
        problem = caught.value
        assert (problem.code, problem.outcome) == (Code.TIMEOUT, Outcome.NOT_SENT)
    assert await mesh.request(service, "notes_taken", {}, context={}) == []


async def test_the_timeout_of_a_call_is_limited(start_client: StartClient, service: str) -> None:
    mesh = await start_client(max_request_timeout_seconds=0.1)
    async with asyncio.timeout(15):
        with pytest.raises(Problem, match="timeout"):
            await mesh.request(service, "wait", {"seconds": 20}, context={}, timeout=30)


async def test_calls_in_flight_are_limited(start_client: StartClient, service: str) -> None:
    mesh = await start_client(max_pending_requests=1)
    first = asyncio.create_task(
        mesh.request(service, "wait", {"seconds": 0.2}, context={}, timeout=10)
    )
    await asyncio.sleep(0)
    with pytest.raises(Problem) as caught:
        await mesh.request(service, "echo", {}, context={})
    assert caught.value.code is Code.TOO_MANY_IN_FLIGHT
    assert await first == "waited"
    assert await mesh.request(service, "echo", {}, context={}) == {}


async def test_a_slow_service_does_not_use_up_the_limit_of_the_others(
    start_client: StartClient, service: str, engine: Engine
) -> None:
    other = Service(f"other-{service}")

    @other.method("now")
    async def now() -> str:
        return "now"

    await engine.serve(other)
    mesh = await start_client(max_pending_requests_per_service=2, max_pending_requests=4)
    slow = [
        asyncio.create_task(mesh.request(service, "wait", {"seconds": 0.3}, timeout=10))
        for _ in range(2)
    ]
    await asyncio.sleep(0)
    for call in (mesh.request, mesh.command):
        with pytest.raises(Problem) as caught:
            await call(service, "echo", {})
        assert caught.value.code is Code.TOO_MANY_IN_FLIGHT
        assert caught.value.retryable
    assert await mesh.request(other.name, "now", {}) == "now"
    assert await asyncio.gather(*slow) == ["waited", "waited"]
    assert await mesh.request(service, "echo", {}) == {}


@given(steps=st.lists(st.tuples(st.booleans(), st.sampled_from(["a", "b", "event"]))))
@hypothesis_settings(derandomize=True, deadline=None, max_examples=100)
def test_messages_in_flight_are_limited_altogether_and_for_each_service(
    steps: list[tuple[bool, str]],
) -> None:
    """Events have only the limit of all. Nothing is kept of a service without calls in flight."""
    limits = Settings.model_construct(max_pending_requests=5, max_pending_requests_per_service=2)
    pending = PendingRequests(limits, Metrics())
    in_flight: list[Message] = []
    for begins, name in steps:
        kind = Kind.EVENT if name == "event" else Kind.COMMAND
        message = Message(kind, name, b"", "", "", 0)
        same = [one for one in in_flight if one.routing_key == name]
        if not begins:
            for one in same[:1]:
                pending.release_slot(one)
                in_flight.remove(one)
        elif len(in_flight) == 5 or (name != "event" and len(same) == 2):
            with pytest.raises(Problem, match="too_many_in_flight"):
                pending.acquire_slot(message)
        else:
            pending.acquire_slot(message)
            in_flight.append(message)
    for one in in_flight:
        pending.release_slot(one)
    assert (pending._total, dict(pending._in_flight)) == (0, {})


async def test_a_cancelled_request_is_no_longer_counted(
    start_client: StartClient, service: str
) -> None:
    mesh = await start_client(max_pending_requests=1)
    request = asyncio.create_task(mesh.request(service, "wait", {"seconds": 20}, context={}))
    await asyncio.sleep(0.05)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert await mesh.request(service, "echo", {}, context={}) == {}


async def test_a_command_is_carried_out(mesh: MeshClient, service: str) -> None:
    await mesh.command(service, "note", {"text": "hello"}, context={})

    async def noted() -> bool:
        taken = await mesh.request(service, "notes_taken", {}, context={})
        return bool(taken == ["hello"])

    await until(noted)


async def test_nan_is_null(mesh: MeshClient, service: str) -> None:
    answer = await mesh.request(service, "echo", {"x": float("nan")}, context={})
    assert answer == {"x": None}


async def test_requests_fail_at_once_when_the_connection_is_lost(
    mesh: MeshClient, service: str, engine: Engine
) -> None:
    pending_requests = [
        asyncio.create_task(mesh.request(service, "wait", {"seconds": 25}, context={}, timeout=30))
        for _ in range(3)
    ]
    await mesh.request(service, "echo", {}, context={})
    await engine.interrupt()
    async with asyncio.timeout(15):
        for problem in await asyncio.gather(*pending_requests, return_exceptions=True):
            assert isinstance(problem, Problem)
            assert problem.code is Code.MESH_UNAVAILABLE
            assert problem.outcome is Outcome.UNKNOWN


async def test_a_request_is_never_sent_twice(
    mesh: MeshClient, engine: Engine, service: str
) -> None:
    """Neither when its connection is lost, nor after the reconnect."""
    for number in range(3):
        call = asyncio.create_task(mesh.request(service, "note", {"text": str(number)}))
        wait = asyncio.create_task(mesh.request(service, "wait", {"seconds": 30}))
        await call
        await engine.interrupt()
        with pytest.raises(Problem) as caught:
            await wait
        assert caught.value.outcome is Outcome.UNKNOWN
        assert not caught.value.retryable
        await engine.resume()
        await until(lambda: mesh.status.connected)
    assert await mesh.request(service, "notes_taken", {}) == ["0", "1", "2"]


async def test_a_call_that_expired_in_the_queue_is_not_carried_out(
    mesh: MeshClient, service: str
) -> None:
    """The service is busy: the call waits in its queue, longer than its caller does."""
    busy = [
        asyncio.create_task(mesh.request(service, "wait", {"seconds": 1.5}))
        for _ in range(CONCURRENT_CALLS)
    ]
    await until(lambda: mesh._pending_requests._total == CONCURRENT_CALLS)
    with pytest.raises(Problem) as caught:
        await mesh.request(service, "note", {"text": "late"}, timeout=0.3)
    assert (caught.value.code, caught.value.outcome) == (Code.TIMEOUT, Outcome.UNKNOWN)
    await asyncio.gather(*busy)
    assert await mesh.request(service, "notes_taken", {}) == []


async def test_without_a_connection_a_call_waits_until_its_deadline(
    mesh: MeshClient, service: str, engine: Engine, metrics: Metrics
) -> None:
    await engine.interrupt()
    await until(lambda: not mesh.status.connected)
    assert mesh.status.reason
    assert _value(metrics, "bff_mesh_connected", {"mesh": "mesh"}) == 0
    with pytest.raises(Problem) as caught:
        await mesh.request(service, "echo", {}, context={}, timeout=0.1)
    assert caught.value.code is Code.MESH_UNAVAILABLE
    assert caught.value.outcome is Outcome.NOT_SENT
    assert caught.value.retryable


async def test_a_call_that_waits_for_a_connection_is_sent_after_reconnecting(
    mesh: MeshClient, service: str, engine: Engine
) -> None:
    await engine.interrupt()
    await until(lambda: not mesh.status.connected)
    call = asyncio.create_task(mesh.request(service, "echo", {"a": 1}, context={}, timeout=25))
    await asyncio.sleep(0)
    await engine.resume()
    assert await call == {"a": 1}
    assert mesh.status.connected


async def test_each_call_is_counted_and_only_requests_are_timed(
    mesh: MeshClient, service: str, metrics: Metrics
) -> None:
    began = time.monotonic()
    await mesh.request(service, "echo", {})
    await mesh.command(service, "note", {"text": "a"})
    with pytest.raises(Problem):
        await mesh.request(service, "refuse", {})
    call = asyncio.create_task(mesh.request(service, "wait", {"seconds": 20}))
    await asyncio.sleep(0.02)
    call.cancel()
    await asyncio.wait([call])
    for outcome, calls in (("ok", 2), ("invalid_params", 1), ("cancelled", 1)):
        labels = {"service": service, "outcome": outcome}
        assert _value(metrics, "bff_mesh_calls_total", labels) == calls
    assert _value(metrics, "bff_mesh_seconds_count", {"service": service}) == 3
    seconds = _value(metrics, "bff_mesh_seconds_sum", {"service": service})
    assert seconds is not None
    assert 0.01 < seconds < time.monotonic() - began + 1


async def test_stopping_fails_pending_requests(mesh: MeshClient, service: str) -> None:
    call = asyncio.create_task(
        mesh.request(service, "wait", {"seconds": 25}, context={}, timeout=30)
    )
    await mesh.request(service, "echo", {}, context={})
    await mesh.stop()
    with pytest.raises(Problem) as caught:
        await call
    assert caught.value.code is Code.MESH_UNAVAILABLE


def _value(metrics: Metrics, name: str, labels: dict[str, str] | None = None) -> float | None:
    return metrics.registry.get_sample_value(name, labels or {})
