"""A call is answered once, or fails in time with the truth about what became of it."""

from __future__ import annotations

import asyncio

import pytest
from bff.errors import Code, Outcome, Problem
from bff.mesh import nuropb
from bff.mesh.client import MeshClient
from bff.mesh.receiver import MessageReceiver
from bff.mesh.service import Service
from bff.telemetry.metrics import Metrics
from bff.testing import until

from tests.engine.mesh.conftest import StartClient
from tests.engine.mesh.engines import Engine


async def test_a_request_is_answered(mesh: MeshClient, service: str) -> None:
    assert await mesh.request(service, "echo", {"a": [1, "é"]}, context={}) == {"a": [1, "é"]}


async def test_the_service_sees_the_context(mesh: MeshClient, service: str) -> None:
    context = {"user_id": "u1", "Authorization": "token"}
    seen = await mesh.request(service, "context", {}, context=context, trace_id="t1")
    assert seen == {**context, "trace_id": "t1"}


async def test_a_client_can_speak_in_someones_name(mesh: MeshClient, service: str) -> None:
    in_name = mesh.with_context({"user_id": "u1"})
    seen = await in_name.request(service, "context", {}, trace_id="t1")
    assert seen == {"user_id": "u1", "trace_id": "t1"}
    assert "user_id" not in await mesh.request(service, "context", {})


async def test_many_requests_run_at_once_and_find_their_own_answers(
    mesh: MeshClient, service: str
) -> None:
    calls = [mesh.request(service, "echo", {"n": n}, context={}) for n in range(200)]
    assert await asyncio.gather(*calls) == [{"n": n} for n in range(200)]


async def test_what_a_service_says_on_purpose_reaches_the_caller(
    mesh: MeshClient, service: str
) -> None:
    with pytest.raises(Problem) as caught:
        await mesh.request(service, "refuse", {}, context={})
    assert caught.value.code is Code.INVALID_PARAMS
    assert caught.value.description == "a must be positive"
    assert caught.value.outcome is Outcome.DONE


async def test_an_exception_goes_to_the_log_and_not_to_the_caller(
    mesh: MeshClient, service: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Problem) as caught:
        await mesh.request(service, "fail", {}, context={}, trace_id="trace-7")
    assert caught.value.code is Code.SERVICE_ERROR
    assert caught.value.outcome is Outcome.DONE
    assert "password" not in caught.value.description
    assert "a password in here" in caplog.text
    assert "(trace trace-7)" in caplog.text


async def test_a_second_reply_is_only_counted(
    mesh: MeshClient, service: str, metrics: Metrics
) -> None:
    """NuroPb sends one after each exception; `tests/e2e` has the real one."""
    correlation_id = await mesh.request(service, "correlation_id", {}, context={})
    receiver = MessageReceiver(mesh._pending_calls, nuropb, metrics, lambda: None)
    receiver.on_reply(correlation_id, b'{"result": "a second one"}')
    receiver.on_reply("of-nobody", b"{}")
    for label in (service, "unknown"):
        assert _value(metrics, "bff_mesh_late_replies_total", {"service": label}) == 1


async def test_an_unknown_method_is_not_found(mesh: MeshClient, service: str) -> None:
    with pytest.raises(Problem) as caught:
        await mesh.request(service, "nothing", {}, context={})
    assert caught.value.code is Code.NOT_FOUND


async def test_an_unknown_service_is_known_at_once(mesh: MeshClient, metrics: Metrics) -> None:
    async with asyncio.timeout(5):
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
async def test_a_name_that_cannot_be_is_refused_before_the_mesh(
    mesh: MeshClient, service: str, method: str
) -> None:
    with pytest.raises(Problem) as caught:
        await mesh.request(service, method, {}, context={})
    assert caught.value.code is Code.INVALID_PARAMS


async def test_parameters_that_are_no_json_are_refused(mesh: MeshClient, service: str) -> None:
    with pytest.raises(Problem) as caught:
        await mesh.request(service, "echo", {"a": object()}, context={})
    assert caught.value.code is Code.INVALID_PARAMS


async def test_a_slow_answer_is_a_timeout_and_then_a_late_reply(
    mesh: MeshClient, service: str, metrics: Metrics
) -> None:
    with pytest.raises(Problem) as caught:
        await mesh.request(service, "wait", {"seconds": 0.3}, context={}, timeout=0.1)
    assert caught.value.code is Code.TIMEOUT
    assert caught.value.outcome is Outcome.UNKNOWN
    assert not caught.value.retryable
    late = {"service": service}
    await until(lambda: _value(metrics, "bff_mesh_late_replies_total", late) == 1)
    labels = {"service": service, "outcome": "timeout"}
    assert _value(metrics, "bff_mesh_calls_total", labels) == 1


@pytest.mark.parametrize("timeout", [0, -5])
async def test_a_call_whose_time_is_over_is_not_sent(
    mesh: MeshClient, service: str, timeout: float
) -> None:
    for call in (mesh.request, mesh.command):
        with pytest.raises(Problem) as caught:
            await call(service, "note", {"text": "late"}, context={}, timeout=timeout)
        problem = caught.value
        assert (problem.code, problem.outcome) == (Code.TIMEOUT, Outcome.NOT_SENT)
    assert await mesh.request(service, "notes_taken", {}, context={}) == []


async def test_no_caller_gets_more_time_than_allowed(
    start_client: StartClient, service: str
) -> None:
    mesh = await start_client(max_request_timeout_seconds=0.1)
    async with asyncio.timeout(5):
        with pytest.raises(Problem, match="timeout"):
            await mesh.request(service, "wait", {"seconds": 20}, context={}, timeout=30)


async def test_calls_in_flight_are_bounded(start_client: StartClient, service: str) -> None:
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


async def test_a_slow_service_leaves_room_for_the_others(
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


async def test_a_cancelled_request_leaves_nothing_behind(
    start_client: StartClient, service: str
) -> None:
    mesh = await start_client(max_pending_requests=1)
    request = asyncio.create_task(mesh.request(service, "wait", {"seconds": 20}, context={}))
    await asyncio.sleep(0.05)
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert await mesh.request(service, "echo", {}, context={}) == {}


async def test_a_command_is_carried_out_and_answers_nothing(mesh: MeshClient, service: str) -> None:
    await mesh.command(service, "note", {"text": "hello"}, context={})

    async def noted() -> bool:
        taken = await mesh.request(service, "notes_taken", {}, context={})
        return bool(taken == ["hello"])

    await until(noted)


async def test_nan_is_null(mesh: MeshClient, service: str) -> None:
    answer = await mesh.request(service, "echo", {"x": float("nan")}, context={})
    assert answer == {"x": None}


async def test_requests_fail_at_once_when_the_broker_goes(
    mesh: MeshClient, service: str, engine: Engine
) -> None:
    pending_calls = [
        asyncio.create_task(mesh.request(service, "wait", {"seconds": 25}, context={}, timeout=30))
        for _ in range(3)
    ]
    await mesh.request(service, "echo", {}, context={})
    await engine.interrupt()
    async with asyncio.timeout(5):
        for problem in await asyncio.gather(*pending_calls, return_exceptions=True):
            assert isinstance(problem, Problem)
            assert problem.code is Code.MESH_UNAVAILABLE
            assert problem.outcome is Outcome.UNKNOWN


async def test_a_call_made_meanwhile_waits_no_longer_than_its_time(
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


async def test_a_call_made_meanwhile_is_answered_when_the_broker_is_back_in_time(
    mesh: MeshClient, service: str, engine: Engine
) -> None:
    await engine.interrupt()
    await until(lambda: not mesh.status.connected)
    call = asyncio.create_task(mesh.request(service, "echo", {"a": 1}, context={}, timeout=25))
    await asyncio.sleep(0)
    await engine.resume()
    assert await call == {"a": 1}
    assert mesh.status.connected


async def test_stopping_fails_what_is_pending(mesh: MeshClient, service: str) -> None:
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
