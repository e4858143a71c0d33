"""Failures of RabbitMQ and of the network: calls end within their deadline, clients reconnect.

`tests/e2e` has the failures that need `rabbitmqctl`: restart, alarm, closed connections.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiormq
import pamqp.encode
import pytest
from bff.errors import Code, Outcome, Problem
from bff.mesh.client import MeshClient
from bff.mesh.connect import connect_mesh
from bff.mesh.events import EventHandler, MeshEvent
from bff.mesh.messages import MeshRequest
from bff.mesh.rabbitmq import connection, consumer
from bff.mesh.rabbitmq import transport as rabbitmq_transport
from bff.mesh.rabbitmq.service_queue import ServiceConsumer
from bff.mesh.rabbitmq.transport import AmqpTransport
from bff.mesh.service import Service
from bff.settings import Settings
from bff.telemetry.metrics import Metrics
from bff.testing import until
from yarl import URL

from tests.engine.mesh.conftest import StartClient
from tests.engine.mesh.engines import RabbitEngine, raw


@pytest.fixture
def amqp_url(rabbitmq_url: str) -> str:
    return rabbitmq_url


@pytest.fixture
def names(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Exchanges that only this test uses, because it deletes them."""
    kinds = ("rpc_exchange", "events_exchange", "dead_letter_exchange")
    monkeypatch.setattr(consumer, "REDECLARE_SECONDS", 0.1)
    return settings.model_copy(update={kind: f"{settings.app_name}-{kind}" for kind in kinds})


async def _connected(mesh: MeshClient) -> None:
    await until(lambda: mesh.status.connected)


async def _echoes(mesh: MeshClient, service: str) -> bool:
    try:
        return bool(await mesh.request(service, "echo", {"a": 1}, timeout=3) == {"a": 1})
    except Problem:
        return False


async def test_a_client_reconnects_after_a_frozen_network(
    start_client: StartClient,
    engine: RabbitEngine,
    service: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "HEARTBEAT_SECONDS", 1)
    mesh = await start_client()
    await until(lambda: _echoes(mesh, service))
    engine.proxy.silent = True
    pending = asyncio.create_task(mesh.request(service, "wait", {"seconds": 60}, timeout=30))
    async with asyncio.timeout(20):
        with pytest.raises(Problem) as caught:
            await pending
        await until(lambda: not mesh.status.connected)
    assert (caught.value.code, caught.value.outcome) == (Code.MESH_UNAVAILABLE, Outcome.UNKNOWN)
    assert not mesh.status.connected
    assert "CancelledError" not in mesh.status.reason
    engine.proxy.silent = False
    await until(lambda: _echoes(mesh, service), 30)


async def test_a_broker_that_accepts_connections_but_does_not_answer_is_reported(
    engine: RabbitEngine,
    settings: Settings,
    metrics: Metrics,
    service: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine.proxy.silent = True
    mesh = MeshClient(settings, metrics, engine.transport())
    try:
        with monkeypatch.context() as patch:
            patch.setattr(connection, "BROKER_SECONDS", 0.3)
            await mesh.start()
            await until(lambda: "Timeout" in mesh.status.reason)
        engine.proxy.silent = False
        await until(lambda: _echoes(mesh, service))
    finally:
        await mesh.stop()


async def test_a_connection_that_opens_as_the_time_is_over_is_closed(
    engine: RabbitEngine,
    settings: Settings,
    metrics: Metrics,
    service: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise it would stay as long as the process, beside the one that replaces it."""
    mesh = MeshClient(settings, metrics, engine.transport())
    try:
        with monkeypatch.context() as patch:
            patch.setattr(connection, "BROKER_SECONDS", 0.3)
            patch.setattr(aiormq.Connection, "ready", lambda _: asyncio.Event().wait())
            await mesh.start()
            await until(lambda: engine.proxy.accepted >= 4)
        await until(lambda: _echoes(mesh, service))
        await until(lambda: engine.proxy.open == 2)
    finally:
        await mesh.stop()


def _encrypted(url: URL) -> URL:
    return url.with_scheme("amqps").with_query(cafile="/no/such/ca.pem")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda url: url.with_password("wrong"), "ACCESS_REFUSED"),
        (lambda url: url.with_path("/no-such-vhost"), "vhost"),
        (lambda url: url.with_port(1), "refused"),
        (lambda url: url.with_host("a..b"), "UnicodeError"),
        (_encrypted, "cannot use cafile '/no/such/ca.pem'"),
    ],
    ids=[
        "wrong password",
        "missing vhost",
        "broker not running",
        "invalid host name",
        "missing cafile",
    ],
)
async def test_the_status_says_why_a_client_cannot_connect(
    settings: Settings, metrics: Metrics, change: Callable[[Any], Any], reason: str
) -> None:
    url = str(change(URL(settings.amqp_url)))
    settings = settings.model_copy(update={"amqp_url": url})
    mesh = MeshClient(settings, metrics, AmqpTransport(settings))
    await mesh.start()
    try:
        await until(lambda: reason.lower() in mesh.status.reason.lower())
        assert "wrong" not in mesh.status.reason, "passwords are not shown"
        for call in (mesh.request, mesh.command):
            with pytest.raises(Problem) as caught:
                await call("s", "m", {}, timeout=0.1)
            problem = caught.value
            assert (problem.code, problem.outcome) == (Code.MESH_UNAVAILABLE, Outcome.NOT_SENT)
            assert problem.retryable
    finally:
        await mesh.stop()


async def test_a_connection_that_is_lost_while_a_consumer_starts_is_replaced_at_once(
    engine: RabbitEngine, settings: Settings, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not wait for that consumer, and neither do the calls in flight."""
    monkeypatch.setattr(rabbitmq_transport, "BROKER_SECONDS", 3600)
    declaring, hangs = asyncio.Event(), True
    declare = ServiceConsumer.declare

    async def hang(self: ServiceConsumer, channel: aiormq.Channel) -> None:
        declaring.set()
        if hangs:
            await asyncio.Event().wait()
        await declare(self, channel)

    monkeypatch.setattr(ServiceConsumer, "declare", hang)
    service = Service(f"service-{settings.app_name}")
    mesh = MeshClient(settings, metrics, engine.transport())
    mesh.add_service(service)
    await mesh.start()
    try:
        await declaring.wait()
        await mesh._transport._publishing.channel()  # type: ignore[attr-defined]
        assert not mesh.status.connected, "the service is not reachable yet"
        hangs = False
        await engine.interrupt()
        await engine.resume()
        await _connected(mesh)
    finally:
        await mesh.stop()
        await engine.delete_queues_of(mesh)


async def test_several_hosts_are_tried_in_turn(settings: Settings, metrics: Metrics) -> None:
    url = URL(settings.amqp_url)
    hosts = f"127.0.0.1:1,{url.host}:{url.port},127.0.0.1:1"
    several = settings.amqp_url.replace(f"{url.host}:{url.port}", hosts)
    settings = Settings.model_validate({**settings.model_dump(), "amqp_url": several})
    mesh = MeshClient(settings, metrics, AmqpTransport(settings))
    await mesh.start()
    await _connected(mesh)
    await mesh.stop()


async def test_a_handler_has_time_to_clean_up_when_the_mesh_stops(
    start_client: StartClient, settings: Settings
) -> None:
    begun, cleaned = asyncio.Event(), asyncio.Event()

    async def tidy(event: MeshEvent) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(1.5)
            cleaned.set()

    topic = f"{settings.app_name}.a"
    mesh = await start_client(EventHandler("first", topic, tidy))
    await mesh.publish(topic, 1)
    await begun.wait()
    await mesh.stop()
    assert cleaned.is_set()


async def test_a_deleted_exchange_is_declared_again_with_its_bindings(
    names: Settings, metrics: Metrics, engine: RabbitEngine
) -> None:
    """RabbitMQ closes the channel of a publisher (404), but does not notify consumers."""
    received: list[Any] = []

    async def receive(event: MeshEvent) -> None:
        received.append(event.payload)

    async def echo(request: Any) -> Any:
        return request.params

    answering = Service(f"service-{names.app_name}")
    answering.add("echo", echo)
    mesh = MeshClient(names, metrics, AmqpTransport(names))
    mesh.add_event_handler(EventHandler("first", "a", receive))
    mesh.add_service(answering)
    await mesh.start()
    await until(lambda: _echoes(mesh, answering.name))
    for exchange in (names.rpc_exchange, names.events_exchange):
        await engine.channel.exchange_delete(exchange)
    await until(lambda: _echoes(mesh, answering.name))

    async def is_received() -> bool:
        try:
            await mesh.publish("a", 1)
        except Problem:
            return False
        return bool(received)

    await until(is_received)
    await mesh.stop()
    for exchange in (names.rpc_exchange, names.events_exchange, names.dead_letter_exchange):
        await engine.channel.exchange_delete(exchange)
    await engine.delete_queues_of(mesh)


async def test_a_call_to_a_deleted_exchange_fails_at_once(
    names: Settings, metrics: Metrics, engine: RabbitEngine
) -> None:
    mesh = MeshClient(names, metrics, AmqpTransport(names))
    await mesh.start()
    await _connected(mesh)
    await engine.channel.exchange_delete(names.rpc_exchange)
    async with asyncio.timeout(15):
        with pytest.raises(Problem) as caught:
            await mesh.request("s", "m", {}, timeout=30)
    assert caught.value.code is Code.MESH_UNAVAILABLE
    with pytest.raises(Problem) as caught:
        await mesh.request("s", "m", {}, timeout=10)
    assert caught.value.code is Code.SERVICE_UNAVAILABLE
    await mesh.stop()


async def test_a_deleted_reply_queue_fails_its_calls_and_is_declared_again(
    start_client: StartClient, engine: RabbitEngine, service: str
) -> None:
    mesh = await start_client()
    pending = asyncio.create_task(mesh.request(service, "wait", {"seconds": 60}, timeout=30))
    await until(lambda: _echoes(mesh, service))
    transport = mesh._transport
    assert isinstance(transport, AmqpTransport)
    consuming = await transport._consuming.channel()
    await consuming.queue_delete(transport._reply_to)
    async with asyncio.timeout(15):
        with pytest.raises(Problem) as caught:
            await pending
    assert (caught.value.code, caught.value.outcome) == (Code.MESH_UNAVAILABLE, Outcome.UNKNOWN)
    await until(lambda: _echoes(mesh, service))


async def test_deleted_queues_of_event_handlers_and_services_are_declared_again(
    start_client: StartClient, engine: RabbitEngine, settings: Settings, service: str
) -> None:
    received: list[Any] = []

    async def receive(event: MeshEvent) -> None:
        received.append(event.payload)

    topic = f"{settings.app_name}.a"
    mesh = await start_client(EventHandler("first", topic, receive))
    transports = [one._transport for one in (mesh, *engine.services)]

    def channels() -> list[int]:
        opened = [one._connection for one in transports if isinstance(one, AmqpTransport)]
        return [len(one.channels) for one in opened if one is not None]

    before = channels()
    await engine.channel.queue_delete(f"{settings.app_name}.events.first.v1")
    await engine.channel.queue_delete(f"nuropb-{service}-sq")

    async def is_received() -> bool:
        await mesh.publish(topic, 1)
        return bool(received)

    await until(is_received)
    await until(lambda: _echoes(mesh, service))
    await until(lambda: channels() == before)


async def test_an_event_whose_topic_is_not_utf_8_is_handled(
    start_client: StartClient, engine: RabbitEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not take the connection, and with it the replies to all calls."""
    handled: list[tuple[str, Any]] = []

    async def handle(event: MeshEvent) -> None:
        handled.append((event.topic, event.payload))

    prefix = f"t{id(engine)}"
    mesh = await start_client(EventHandler("first", f"{prefix}.*", handle))
    connections = engine.proxy.accepted
    with monkeypatch.context() as patch:
        # As other libraries do; this one encodes texts only.
        patch.setitem(pamqp.encode.METHODS, "shortstr", _latin_1)
        await engine.send_raw_event(f"{prefix}.caf\u00e9", raw("", 1))
    await mesh.publish(f"{prefix}.tea", 2)
    await until(lambda: len(handled) == 2)
    assert handled == [(f"{prefix}.caf?", 1), (f"{prefix}.tea", 2)]
    assert engine.proxy.accepted == connections


def _latin_1(text: str) -> bytes:
    return bytes((len(text),)) + text.encode("latin-1")


class HangingService(Service):
    """Counts the calls of `hang`, which has no end."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.begun = 0
        self.add("hang", self._hang)

    async def _hang(self, _: MeshRequest) -> None:
        self.begun += 1
        await asyncio.Event().wait()


async def test_messages_with_binary_headers_are_moved_as_others(
    start_client: StartClient,
    engine: RabbitEngine,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A call that is delivered again is carried out. An event that failed does not come again."""
    handled: list[Any] = []
    service = HangingService(f"{settings.app_name}-service")

    async def fail(event: MeshEvent) -> None:
        handled.append(event.payload)
        raise ValueError

    async def send(exchange: str, key: str, body: bytes) -> None:
        properties = aiormq.spec.Basic.Properties(
            correlation_id="c", headers={"nuropb_type": "command", "signature": bytearray(b"\xff")}
        )
        with monkeypatch.context() as patch:
            # As other libraries do: a text that is not UTF-8, instead of a byte array.
            patch.setattr(pamqp.encode, "encode_table_value", _binary_text)
            await engine.channel.basic_publish(
                body, exchange=exchange, routing_key=key, properties=properties
            )

    topic = f"{settings.app_name}.a"
    await start_client(EventHandler("first", topic, fail), services=[service])
    for payload in (1, 2):
        await send("nuropb-events-exchange", topic, raw(topic, payload))
    await until(lambda: len(handled) == 2)
    assert handled == [1, 2]
    await send("nuropb-rpc-exchange", service.name, b'{"method": "hang"}')
    await until(lambda: service.begun == 1)
    await engine.interrupt()
    await engine.resume()
    await until(lambda: service.begun == 2)


def _binary_text(value: Any, encode: Any = pamqp.encode.encode_table_value) -> bytes:
    encoded: bytes = encode(value)
    return b"S" + encoded[1:] if isinstance(value, bytearray) else encoded


async def test_what_is_moved_to_another_queue_is_confirmed_there_first(
    start_client: StartClient,
    engine: RabbitEngine,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without confirms it would be lost if that queue does not take it."""
    confirmed: dict[Any, bool] = {}
    publish = aiormq.Channel.basic_publish

    async def record(self: Any, body: bytes, **options: Any) -> Any:
        confirmed[options.get("routing_key")] = self.publisher_confirms
        return await publish(self, body, **options)

    monkeypatch.setattr(aiormq.Channel, "basic_publish", record)
    service = HangingService(f"{settings.app_name}-service")

    async def fail(event: MeshEvent) -> None:
        raise ValueError

    topic = f"{settings.app_name}.a"
    mesh = await start_client(EventHandler("first", topic, fail), services=[service])
    await mesh.publish(topic, 1)
    await until(lambda: f"{settings.app_name}.dead-letters.v1" in confirmed)
    await mesh.command(service.name, "hang", {}, timeout=30)
    await until(lambda: service.begun == 1)
    await engine.interrupt()
    await engine.resume()
    await until(lambda: service.begun == 2)
    moved = (f"{settings.app_name}.dead-letters.v1", f"{service.name}.redelivered-calls.v1")
    assert [confirmed[queue] for queue in moved] == [True, True]


async def test_a_handler_that_swallows_its_cancellation_does_not_delay_reconnecting(
    start_client: StartClient, engine: RabbitEngine, settings: Settings, service: str
) -> None:
    tried: list[Any] = []

    async def stubborn(event: MeshEvent) -> None:
        tried.append(event.payload)
        if len(tried) == 1:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return

    topic = f"{settings.app_name}.a"
    mesh = await start_client(EventHandler("first", topic, stubborn))
    await mesh.publish(topic, 1)
    await until(lambda: bool(tried))
    await engine.interrupt()
    await until(lambda: not mesh.status.connected)
    await engine.resume()
    await until(lambda: _echoes(mesh, service))
    await until(lambda: tried == [1, 1])


async def test_a_call_to_a_full_queue_fails_at_once(
    mesh: MeshClient, engine: RabbitEngine, settings: Settings
) -> None:
    """The broker sends `basic.nack`. Without confirms the call would wait until its deadline."""
    full = f"full-{settings.app_name}"
    arguments: dict[str, Any] = {"x-max-length": 0, "x-overflow": "reject-publish"}
    await engine.channel.queue_declare(full, exclusive=True, arguments=arguments)
    await engine.channel.queue_bind(full, "nuropb-rpc-exchange", routing_key=full)
    async with asyncio.timeout(15):
        with pytest.raises(Problem) as caught:
            await mesh.request(full, "m", {}, timeout=30)
    assert (caught.value.code, caught.value.outcome) == (Code.SERVICE_UNAVAILABLE, Outcome.UNKNOWN)
    assert not caught.value.retryable, "another queue may have accepted the call"


async def test_no_reply_is_lost_to_the_limit_of_messages_that_are_sent(
    engine: RabbitEngine, mesh: MeshClient, settings: Settings
) -> None:
    """The limit holds for what this process asks, not for what it is asked."""
    service = Service(f"{settings.app_name}-service")
    begun, release = asyncio.Semaphore(0), asyncio.Event()

    @service.method("wait")
    async def wait() -> None:
        begun.release()
        await release.wait()

    limited = settings.model_copy(update={"max_pending_requests": 1})
    serving = connect_mesh(limited)
    serving.add_service(service)
    engine.services.append(serving)
    await serving.start()
    await until(lambda: serving.status.connected)
    calls = [asyncio.create_task(mesh.request(service.name, "wait", {})) for _ in range(20)]
    async with asyncio.timeout(10):
        for _ in calls:
            await begun.acquire()
        release.set()
        assert await asyncio.gather(*calls) == [None] * 20


async def test_a_call_that_is_never_answered_has_an_unknown_outcome(
    mesh: MeshClient, engine: RabbitEngine, settings: Settings
) -> None:
    unanswered = f"unanswered-{settings.app_name}"
    await engine.channel.queue_declare(unanswered, exclusive=True)
    await engine.channel.queue_bind(unanswered, "nuropb-rpc-exchange", routing_key=unanswered)
    with pytest.raises(Problem) as caught:
        await mesh.request(unanswered, "m", {}, timeout=1)
    problem = caught.value
    assert (problem.code, problem.outcome, problem.retryable) == (
        Code.TIMEOUT,
        Outcome.UNKNOWN,
        False,
    )


async def test_a_hundred_lost_connections_leak_nothing(
    start_client: StartClient,
    engine: RabbitEngine,
    service: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def soon(first: float, longest: float) -> Iterator[float]:
        return itertools.repeat(0.01)

    monkeypatch.setattr(connection, "backoff_delays", soon)

    async def receive(event: MeshEvent) -> None: ...

    mesh = await start_client(EventHandler("first", f"t{id(engine)}", receive))

    async def lose() -> None:
        call = asyncio.create_task(mesh.request(service, "wait", {"seconds": 60}, timeout=30))
        await asyncio.sleep(0)
        await engine.interrupt()
        await until(lambda: not mesh.status.connected)
        await engine.resume()
        await until(lambda: mesh.status.connected)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    async def counts() -> dict[str, int]:
        await until(lambda: _echoes(mesh, service))
        await asyncio.sleep(0.1)
        gc.collect()
        objects = gc.get_objects()
        return {
            "tasks": len(asyncio.all_tasks()),
            "files": _open_files(),
            "connections": sum(isinstance(one, aiormq.Connection) for one in objects),
            "channels": sum(isinstance(one, aiormq.Channel) for one in objects),
            "futures": sum(type(one) is asyncio.Future for one in objects),
            "waiting": len(mesh._pending_requests._replies),
            "in flight": mesh._pending_requests._total,
        }

    for _ in range(5):
        await lose()
    before = await counts()
    for _ in range(100):
        await lose()
    after = await counts()
    grown = {what: (before[what], after[what]) for what in after if after[what] > before[what] + 10}
    assert not grown
    assert (after["waiting"], after["in flight"]) == (0, 0)


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
