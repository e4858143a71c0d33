"""A service replies to each request once, and malformed messages do not stop it."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from contextlib import suppress
from typing import Annotated, Any

import pytest
from bff.errors import Code, Outcome, Problem
from bff.mesh.client import MeshClient
from bff.mesh.messages import Context, Delivery, MalformedMessage, MeshRequest
from bff.mesh.rabbitmq.service_queue import CONCURRENT_CALLS
from bff.mesh.service import Service
from bff.settings import Settings
from bff.telemetry.metrics import Metrics
from bff.testing import until
from pydantic import BaseModel, Field

from tests.engine.mesh.conftest import StartClient
from tests.engine.mesh.engines import Engine, RabbitEngine


class Item(BaseModel):
    name: str


def _request(body: bytes, kind: str = "request", reply_to: str = "r") -> Delivery:
    return Delivery("s", body, "c", "t", kind, reply_to)


def _call(method: str, **more: Any) -> bytes:
    return json.dumps({"method": method, "params": {}, "context": {}, **more}).encode()


@pytest.fixture
def shop() -> Service:
    service = Service("shop")

    @service.method("buy")
    async def buy(item: Item, count: Annotated[int, Field(gt=0)] = 1) -> dict[str, Any]:
        return {"item": item, "count": count}

    @service.method("get_context")
    async def get_context(context: Context) -> Context:
        return context

    @service.method("model")
    async def model() -> Item:
        return Item(name="tea")

    @service.method("set")
    async def unserialisable() -> Any:
        return {(1, 2): object()}

    @service.method("busy")
    async def busy() -> None:
        raise Problem(Code.SERVICE_UNAVAILABLE, "Come back later", outcome=Outcome.UNKNOWN)

    @service.method("conflict")
    async def conflict() -> None:
        raise Problem(Code.CONFLICT, "Sold out")

    return service


async def _answered(service: Service, body: bytes) -> dict[str, Any]:
    reply = await service.answer(_request(body))
    assert reply is not None
    read: dict[str, Any] = json.loads(reply.body)
    return read


async def test_parameters_are_checked_by_their_annotations(shop: Service) -> None:
    for params, words in (
        ({}, "item: Missing"),
        ({"item": {}}, "item.name"),
        ({"item": {"name": "tea"}, "count": 0}, "count"),
        ({"item": {"name": "tea"}, "more": 1}, "more"),
    ):
        error = (await _answered(shop, _call("buy", params=params)))["error"]
        assert error["error"] == "NuropbValidationError"
        assert error["code"] == "invalid_params"
        assert words in error["description"]


async def test_a_parameter_cannot_replace_the_context(shop: Service) -> None:
    body = _call(
        "get_context", params={"context": {"user_id": "root"}}, context={"user_id": "alice"}
    )
    assert (await _answered(shop, body))["result"] == {"user_id": "alice"}


async def test_a_model_is_returned_as_json(shop: Service) -> None:
    assert (await _answered(shop, _call("model")))["result"] == {"name": "tea"}


async def test_a_result_that_is_not_json_is_an_error(shop: Service) -> None:
    answer = await _answered(shop, _call("set"))
    assert answer["result"] is None
    assert answer["error"]["error"] == "NuropbException"


async def test_missing_params_and_context_are_empty(shop: Service) -> None:
    assert (await _answered(shop, b'{"method": "get_context"}'))["result"] == {}


@pytest.mark.parametrize("name", ["_private", "nuropb_describe", "buy"])
async def test_private_reserved_and_taken_names_are_refused(shop: Service, name: str) -> None:
    async def method() -> None: ...

    with pytest.raises(ValueError, match="taken or reserved"):
        shop.method(name)(method)


def test_a_method_that_is_not_async_is_refused(shop: Service) -> None:
    def method() -> None: ...

    with pytest.raises(TypeError, match="async def"):
        shop.method("sync")(method)  # type: ignore[type-var]


MALFORMED = {
    "not JSON": _request(b"{no json"),
    "an array": _request(b"[1]"),
    "empty": _request(b""),
    "encrypted with an unknown key": _request(b"AAAA.AAAA"),
    "params a list": _request(_call("buy", params=[1])),
    "context a text": _request(_call("buy", context="root")),
    "no method": _request(b'{"params": {}}'),
    "no reply_to": _request(_call("get_context"), reply_to=""),
    "a response": _request(_call("get_context"), kind="response"),
    "an event": _request(_call("get_context"), kind="event"),
    "no headers": _request(_call("get_context"), kind=""),
    "an unknown type": _request(_call("get_context"), kind="unknown"),
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_malformed_messages_are_recognised(shop: Service, case: str) -> None:
    with pytest.raises(MalformedMessage):
        await shop.answer(MALFORMED[case])


async def test_a_command_needs_no_reply_queue_and_a_method_is_still_a_function() -> None:
    service, bought = Service("shop"), []

    @service.method("buy")
    async def buy(what: str) -> None:
        bought.append(what)

    await buy("tea")
    command = _request(_call("buy", params={"what": "milk"}), kind="command", reply_to="")
    assert await service.answer(command) is None
    assert bought == ["tea", "milk"]


async def test_a_method_that_fails_when_its_time_is_over_has_failed(shop: Service) -> None:
    shop.time_limit_seconds = 0.01

    @shop.method("slow")
    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RuntimeError("the clean-up failed") from None

    error = (await _answered(shop, _call("slow")))["error"]
    assert error == {"error": "NuropbException", "description": "Internal error"}


async def test_a_problem_keeps_its_code_and_outcome(
    start_client: StartClient, engine: Engine, shop: Service
) -> None:
    await engine.serve(shop)
    mesh = await start_client()
    for method, code, description, outcome in (
        ("conflict", Code.CONFLICT, "Sold out", Outcome.DONE),
        ("busy", Code.SERVICE_UNAVAILABLE, "Come back later", Outcome.UNKNOWN),
    ):
        with pytest.raises(Problem) as caught:
            await mesh.request("shop", method, {})
        problem = caught.value
        assert (problem.code, problem.description, problem.outcome) == (code, description, outcome)
        assert not problem.retryable, "the service had begun"


async def test_a_client_can_run_a_service(
    start_client: StartClient, engine: Engine, shop: Service, metrics: Metrics
) -> None:
    """As the BFF does with its own service."""
    mesh = await start_client(services=[shop])

    async def there() -> bool:
        try:
            return bool(await mesh.request("shop", "model", {}) == {"name": "tea"})
        except Problem:
            return False

    await until(there)
    labels = {"service": "shop", "outcome": "answered"}
    assert metrics.registry.get_sample_value("bff_mesh_served_total", labels)
    with pytest.raises(ValueError, match="two services"):
        mesh.add_service(Service("shop"))


async def test_what_became_of_a_call_is_counted(
    start_client: StartClient,
    shop: Service,
    metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver = (await start_client())._receiver

    async def bug(_: Delivery) -> None:
        raise KeyError

    async def never_ends(_: Delivery) -> None:
        await asyncio.Event().wait()

    def counted() -> dict[str, float]:
        return {
            sample.labels["outcome"]: sample.value
            for metric in metrics.registry.collect()
            for sample in metric.samples
            if sample.name == "bff_mesh_served_total"
        }

    await receiver.on_call(shop, _request(_call("model")))
    assert counted() == {"answered": 1}
    with pytest.raises(MalformedMessage):
        await receiver.on_call(shop, _request(b"{}"))
    assert counted() == {"answered": 1, "malformed": 1}
    monkeypatch.setattr(shop, "answer", bug)
    with pytest.raises(KeyError):
        await receiver.on_call(shop, _request(_call("model")))
    counts = {"answered": 1, "malformed": 1, "failed": 1}
    assert counted() == counts
    monkeypatch.setattr(shop, "answer", never_ends)
    call = asyncio.create_task(receiver.on_call(shop, _request(_call("model"))))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])
    assert counted() == counts, "it will be delivered again"


async def test_a_validation_error_inside_a_method_is_a_bug_of_the_service(
    start_client: StartClient, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service("stock")

    @service.method("read")
    async def read(count: int) -> Item:
        return Item.model_validate({"name": None, "count": count})

    @service.method("all")
    async def read_all(context: Context, count: Annotated[int, Field(gt=0)]) -> int:
        return count

    await engine.serve(service)
    mesh = await start_client()
    with pytest.raises(Problem) as caught:
        await mesh.request("stock", "read", {"count": 1})
    assert caught.value.code is Code.SERVICE_ERROR
    assert "service method failed" in caplog.messages
    for method, params in (("read", {"count": "x"}), ("read", {}), ("all", {"count": 0})):
        with pytest.raises(Problem) as caught:
            await mesh.request("stock", method, params)
        assert caught.value.code is Code.INVALID_PARAMS
        assert caught.value.description.startswith("count: ")
    assert await mesh.request("stock", "all", {"count": 2}) == 2


async def test_malformed_messages_do_not_stop_a_service(
    mesh: MeshClient, service: str, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Some of these messages shut down a NuroPb service."""
    caplog.set_level(logging.INFO)
    for delivery in MALFORMED.values():
        await engine.send_raw_call(service, delivery)
    assert await mesh.request(service, "echo", {"n": 1}) == {"n": 1}
    assert await mesh.request(service, "notes_taken", {}) == []
    assert "root" not in caplog.text


@pytest.mark.parametrize("how", ["the method is cancelled", "the reply queue is full"])
async def test_failed_calls_do_not_use_up_the_concurrency_limit(
    mesh: MeshClient, engine: Engine, settings: Settings, how: str
) -> None:
    service = Service(f"service-{secrets.token_hex(4)}")

    @service.method("cancelled")
    async def cancelled() -> None:
        raise asyncio.CancelledError

    @service.method("fine")
    async def fine() -> str:
        return "fine"

    await engine.serve(service)
    full = ""
    if how != "the method is cancelled":
        if not isinstance(engine, RabbitEngine):
            pytest.skip("the in-process mesh has no full queues")
        full = f"full-{settings.app_name}"
        arguments: dict[str, Any] = {"x-max-length": 0, "x-overflow": "reject-publish"}
        await engine.channel.queue_declare(full, exclusive=True, arguments=arguments)
    method = "fine" if full else "cancelled"
    for _ in range(CONCURRENT_CALLS + 1):
        await engine.send_raw_call(service.name, _request(_call(method), reply_to=full or "r"))
    assert await mesh.request(service.name, "fine", {}) == "fine"


async def test_a_command_waits_while_its_service_is_stopped(
    mesh: MeshClient, service: str, engine: Engine
) -> None:
    if not isinstance(engine, RabbitEngine):
        pytest.skip("the in-process mesh has no queue for a stopped service")
    (stopped,) = engine.services
    await stopped.stop()
    await mesh.command(service, "note", {"text": "later"}, timeout=20)
    await stopped.start()
    await until(lambda: stopped.status.connected)

    async def noted() -> bool:
        return bool(await mesh.request(service, "notes_taken", {}) == ["later"])

    await until(noted)


async def test_an_added_method_receives_the_whole_request(
    start_client: StartClient, engine: Engine
) -> None:
    service, seen = Service("observer"), []

    async def observe(request: MeshRequest) -> None:
        seen.append(request)

    service.add("observe", observe)
    await engine.serve(service)
    mesh = await start_client()
    await mesh.request("observer", "observe", {"a": 1}, context={"user_id": "u"}, trace_id="t")
    (request,) = seen
    assert (request.method, request.params, request.trace_id) == ("observe", {"a": 1}, "t")
    assert request.context["user_id"] == "u"
    assert request.correlation_id


async def test_an_error_repeats_only_the_beginning_of_an_unknown_name(shop: Service) -> None:
    answer = await _answered(shop, _call("x" * 129))
    assert answer["error"]["description"] == f"Unknown method {'x' * 128}"


@pytest.mark.parametrize(("method", "counted"), [("model", "answered"), ("cancelled", None)])
async def test_only_a_call_that_will_be_delivered_again_is_not_counted(
    mesh: MeshClient,
    shop: Service,
    metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    counted: str | None,
) -> None:
    monkeypatch.setattr("bff.mesh.receiver.is_cancelled", lambda: True)

    @shop.method("cancelled")
    async def cancelled() -> None:
        raise asyncio.CancelledError

    with suppress(asyncio.CancelledError):
        await mesh._receiver.on_call(shop, _request(_call(method)))
    (family,) = metrics.mesh_served.collect()
    found = {one.labels["outcome"] for one in family.samples if one.name.endswith("_total")}
    assert found == ({counted} if counted else set())
