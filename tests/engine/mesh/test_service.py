"""A service of ours answers each request once, whatever it is sent."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
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

    @service.method("who")
    async def who(context: Context) -> Context:
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


async def test_a_parameter_cannot_pass_for_the_context(shop: Service) -> None:
    body = _call("who", params={"context": {"user_id": "root"}}, context={"user_id": "alice"})
    assert (await _answered(shop, body))["result"] == {"user_id": "alice"}


async def test_a_model_is_answered_as_json(shop: Service) -> None:
    assert (await _answered(shop, _call("model")))["result"] == {"name": "tea"}


async def test_a_result_that_json_refuses_is_an_error_not_silence(shop: Service) -> None:
    answer = await _answered(shop, _call("set"))
    assert answer["result"] is None
    assert answer["error"]["error"] == "NuropbException"


async def test_missing_params_and_context_are_none_at_all(shop: Service) -> None:
    assert (await _answered(shop, b'{"method": "who"}'))["result"] == {}


@pytest.mark.parametrize("name", ["_private", "nuropb_describe", "buy"])
async def test_private_reserved_and_taken_names_are_refused(shop: Service, name: str) -> None:
    async def method() -> None: ...

    with pytest.raises(ValueError, match="taken or reserved"):
        shop.method(name)(method)


def test_a_method_that_is_not_async_is_refused(shop: Service) -> None:
    def method() -> None: ...

    with pytest.raises(TypeError, match="async def"):
        shop.method("sync")(method)  # type: ignore[type-var]


POISON = {
    "not JSON": _request(b"{no json"),
    "an array": _request(b"[1]"),
    "empty": _request(b""),
    "sealed for nobody": _request(b"AAAA.AAAA"),
    "params a list": _request(_call("buy", params=[1])),
    "context a text": _request(_call("buy", context="root")),
    "no method": _request(b'{"params": {}}'),
    "no reply_to": _request(_call("who"), reply_to=""),
    "a response": _request(_call("who"), kind="response"),
    "an event": _request(_call("who"), kind="event"),
    "no headers": _request(_call("who"), kind=""),
    "an unknown type": _request(_call("who"), kind="gossip"),
}


@pytest.mark.parametrize("case", POISON)
async def test_poison_is_malformed_and_nothing_else(shop: Service, case: str) -> None:
    with pytest.raises(MalformedMessage):
        await shop.answer(POISON[case])


async def test_errors_of_our_services_come_through_with_code_and_outcome(
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


async def test_a_client_answers_as_a_service_too(
    start_client: StartClient, engine: Engine, shop: Service, metrics: Metrics
) -> None:
    """As the BFF does."""
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
    await _delete_queue(engine, "shop")


async def test_no_poison_ends_a_service_on_the_mesh(
    mesh: MeshClient, service: str, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """The list of what takes a NuroPb service off the mesh for good."""
    caplog.set_level(logging.INFO)
    for delivery in POISON.values():
        await engine.send_raw_call(service, delivery)
    assert await mesh.request(service, "echo", {"n": 1}) == {"n": 1}
    assert await mesh.request(service, "notes_taken", {}) == []
    assert "root" not in caplog.text


@pytest.mark.parametrize("how", ["it fails oddly", "its caller takes no reply"])
async def test_however_many_calls_end_badly_the_next_is_answered(
    mesh: MeshClient, engine: Engine, settings: Settings, how: str
) -> None:
    odd = Service(f"odd-{secrets.token_hex(4)}")

    @odd.method("cancelled")
    async def cancelled() -> None:
        raise asyncio.CancelledError

    @odd.method("fine")
    async def fine() -> str:
        return "fine"

    await engine.serve(odd)
    full = ""
    if how != "it fails oddly":
        if not isinstance(engine, RabbitEngine):
            pytest.skip("the in-process mesh has no queue that refuses")
        full = f"full-{settings.app_name}"
        arguments: dict[str, Any] = {"x-max-length": 0, "x-overflow": "reject-publish"}
        await engine.channel.queue_declare(full, exclusive=True, arguments=arguments)
    method = "fine" if full else "cancelled"
    for _ in range(CONCURRENT_CALLS + 1):
        await engine.send_raw_call(odd.name, _request(_call(method), reply_to=full or "r"))
    assert await mesh.request(odd.name, "fine", {}) == "fine"


async def test_calls_of_a_service_wait_while_it_is_away_and_it_carries_them_out_once(
    mesh: MeshClient, service: str, engine: Engine
) -> None:
    if not isinstance(engine, RabbitEngine):
        pytest.skip("the in-process mesh keeps no calls for a service that is away")
    (away,) = engine.services
    await away.stop()
    await mesh.command(service, "note", {"text": "later"}, timeout=20)
    await away.start()
    await until(lambda: away.status.connected)

    async def noted() -> bool:
        return bool(await mesh.request(service, "notes_taken", {}) == ["later"])

    await until(noted)


async def _delete_queue(engine: Engine, service: str) -> None:
    if isinstance(engine, RabbitEngine):
        await engine.channel.queue_delete(f"nuropb-{service}-sq")


async def test_the_request_is_at_hand_whole(start_client: StartClient, engine: Engine) -> None:
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
