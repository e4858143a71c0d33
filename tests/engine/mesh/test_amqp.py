"""Behaviour that only a real RabbitMQ has."""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import Any

import aiormq
import pytest
from aiormq.abc import AbstractConnection
from aiormq.exceptions import ChannelAccessRefused
from bff.errors import Code, Outcome, Problem
from bff.mesh.client import MeshClient
from bff.mesh.events import EventHandler, MeshEvent
from bff.mesh.rabbitmq import transport
from bff.mesh.rabbitmq.connection import check_publishing, find_queue
from bff.mesh.rabbitmq.consumer import QueueConsumer
from bff.mesh.rabbitmq.event_queue import EventConsumer
from bff.mesh.rabbitmq.service_queue import RedeliveredCalls, ServiceConsumer
from bff.mesh.rabbitmq.transport import AmqpTransport
from bff.mesh.service import Service
from bff.mesh.transport import ConnectionLost
from bff.settings import Settings
from bff.telemetry.metrics import Metrics
from bff.testing import until

from tests.engine.mesh.conftest import StartClient
from tests.engine.mesh.engines import RabbitEngine


@pytest.fixture
def amqp_url(rabbitmq_url: str) -> str:
    return rabbitmq_url


async def test_calls_time_out_when_the_broker_is_silent(
    mesh: MeshClient, service: str, engine: RabbitEngine
) -> None:
    engine.proxy.silent = True
    async with asyncio.timeout(15):
        with pytest.raises(Problem) as caught:
            await mesh.request(service, "echo", {}, context={}, timeout=0.2)
        assert caught.value.code is Code.TIMEOUT
        assert caught.value.outcome is Outcome.UNKNOWN
        with pytest.raises(Problem):
            await mesh.command(service, "echo", {}, context={}, timeout=0.2)


async def test_a_client_can_start_before_the_broker(
    start_client: StartClient,
    engine: RabbitEngine,
    settings: Settings,
    metrics: Metrics,
    service: str,
) -> None:
    await engine.interrupt()
    mesh = MeshClient(settings, metrics, engine.transport())
    await mesh.start()
    try:
        await until(lambda: "refused" in mesh.status.reason or "Connect" in mesh.status.reason)
        await engine.resume()
        assert await mesh.request(service, "echo", {"a": 1}, context={}, timeout=20) == {"a": 1}
    finally:
        await mesh.stop()


def own_exchanges(settings: Settings) -> dict[str, str]:
    """Names of exchanges that the broker does not have, by setting."""
    kinds = ("rpc_exchange", "events_exchange", "dead_letter_exchange")
    return {kind: f"{settings.app_name}-{kind}" for kind in kinds}


async def test_exchanges_are_declared_on_a_new_broker(
    settings: Settings, metrics: Metrics, engine: RabbitEngine
) -> None:
    names = own_exchanges(settings)
    transport = AmqpTransport(settings.model_copy(update=names))
    mesh = MeshClient(settings, metrics, transport)
    await mesh.start()
    await until(lambda: mesh.status.connected)
    await mesh.stop()
    for name in names.values():
        await engine.channel.exchange_declare(name, passive=True)
        await engine.channel.exchange_delete(name)


@pytest.mark.parametrize("kind", ["event handler", "service"])
async def test_a_consumer_needs_nothing_that_another_one_has_declared(
    settings: Settings, engine: RabbitEngine, kind: str
) -> None:
    names = own_exchanges(settings)
    changed = settings.model_copy(update=names)
    nothing: Any = None

    async def handle(_: MeshEvent) -> None: ...

    consumer: EventConsumer | ServiceConsumer
    if kind == "service":
        consumer = ServiceConsumer(changed, Service(settings.app_name), nothing, nothing)
    else:
        consumer = EventConsumer(changed, EventHandler("first", "a.b", handle), nothing)
    channel: Any = engine.channel
    await consumer.declare(channel)
    for name in names.values():
        await channel.exchange_delete(name)


async def test_a_queue_that_cannot_be_declared_affects_only_its_event_handler(
    start_client: StartClient, engine: RabbitEngine, settings: Settings, service: str
) -> None:
    """The queue exists with different arguments: RabbitMQ closes the channel (406)."""
    handled: list[object] = []

    async def handle(event: MeshEvent) -> None:
        handled.append(event.payload)

    await engine.channel.queue_declare(f"{settings.app_name}.events.first.v1", durable=True)
    topic = f"{settings.app_name}.a"
    mesh = await start_client(
        EventHandler("first", topic, handle), EventHandler("second", topic, handle)
    )

    async def is_handled() -> bool:
        await mesh.publish(topic, 1)
        return bool(handled)

    await until(is_handled)
    ((queue, reason),) = mesh.consumers_down.items()
    assert queue == f"{settings.app_name}.events.first.v1"
    assert "PRECONDITION_FAILED" in reason
    assert await mesh.request(service, "echo", {}, context={}) == {}
    assert mesh.status.connected


async def test_every_queue_is_exclusive_or_durable_and_bounded(
    start_client: StartClient,
    engine: RabbitEngine,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """RabbitMQ 4.3 refuses queues that are neither exclusive nor durable."""
    declared: dict[str, dict[str, Any]] = {}
    unacknowledged: list[str] = []
    declare, consume = aiormq.Channel.queue_declare, aiormq.Channel.basic_consume

    async def record(self: Any, queue: str = "", **more: Any) -> Any:
        answer = await declare(self, queue, **more)
        declared[queue or "reply"] = more
        return answer

    async def record_consumer(self: Any, queue: str, *more: Any, **options: Any) -> Any:
        if options.get("no_ack"):
            unacknowledged.append(queue)
        return await consume(self, queue, *more, **options)

    monkeypatch.setattr(aiormq.Channel, "queue_declare", record)
    monkeypatch.setattr(aiormq.Channel, "basic_consume", record_consumer)

    async def handle(event: MeshEvent) -> None: ...

    service, event_handler = (
        Service(f"service-{settings.app_name}"),
        EventHandler("first", "a", handle),
    )
    await start_client(event_handler, services=[service])
    own = f"{settings.app_name}."
    assert set(declared) == {
        "reply",
        f"nuropb-{service.name}-sq",
        f"{service.name}.redelivered-calls.v1",
        f"{own}events.first.v1",
        f"{own}dead-letters.v1",
        f"{own}overflow.v1",
    }
    for name, how in declared.items():
        assert how.get("exclusive") or how.get("durable"), name
        if name.startswith(own):
            assert how["arguments"]["x-max-length"], name
    events = declared[f"{own}events.first.v1"]["arguments"]
    assert events["x-expires"] == 7 * 24 * 3600 * 1000
    (replies,) = unacknowledged
    assert replies.startswith("amq.gen-"), "only replies are taken without an acknowledgement"


async def test_no_body_is_logged(
    mesh: MeshClient, service: str, engine: RabbitEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(Problem):
        await mesh.request("no-such-service", "echo", {"a": "a secret"}, context={})
    await mesh.request(service, "echo", {"a": "a secret"}, context={})
    await engine.interrupt()
    await until(lambda: not mesh.status.connected)
    assert "a secret" not in caplog.text
    assert {record.name for record in caplog.records} <= {"bff.mesh.rabbitmq.connection", "asyncio"}


async def test_no_task_remains_after_stop(
    settings: Settings, metrics: Metrics, engine: RabbitEngine
) -> None:
    before = asyncio.all_tasks()
    mesh = MeshClient(settings, metrics, AmqpTransport(settings))
    await mesh.start()
    await until(lambda: mesh.status.connected)
    await mesh.stop()
    await until(lambda: asyncio.all_tasks() <= before)
    assert not mesh.status.connected


async def test_a_right_to_publish_that_is_missing_is_told_while_it_is(
    start_client: StartClient,
    metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    refusal: Exception | None = ChannelAccessRefused("write access to exchange 'x' refused")
    checks, answers = 0, asyncio.Event()

    async def check(*_: object) -> None:
        nonlocal checks
        await answers.wait()
        checks += 1
        if refusal is not None:
            raise refusal

    async def checked_again() -> None:
        before = checks
        await until(lambda: checks > before + 1)

    monkeypatch.setattr(transport, "check_publishing", check)
    monkeypatch.setattr(transport, "RIGHTS_SECONDS", 0.01)
    refusal = None
    mesh = await start_client()
    known = asyncio.create_task(mesh.wait_until_rights_checked())
    await asyncio.wait([known], timeout=0.02)
    assert not known.done()
    answers.set()
    await known
    refusal = ChannelAccessRefused("write access to exchange 'x' refused")
    await until(lambda: "write access to exchange" in mesh.status.reason)
    await checked_again()
    assert not mesh.status.connected
    assert metrics.registry.get_sample_value("bff_mesh_connected", {"mesh": "mesh"}) == 0
    refusal = RuntimeError("a check that fails proves nothing")
    await checked_again()
    assert not mesh.status.connected
    refusal = None
    await until(lambda: mesh.status.connected)
    refusal = ConnectionResetError("nor does a lost channel")
    await checked_again()
    assert mesh.status.connected
    lines = [one.message for one in caplog.records if "refuses to publish" in one.message]
    assert len(lines) == 1


async def test_the_check_of_queues_counts_as_no_delivery(
    start_client: StartClient, engine: RabbitEngine, settings: Settings, metrics: Metrics
) -> None:
    """Else a doctor that runs often would use up the tries of what waits."""
    name = f"checked-{secrets.token_hex(4)}"
    other = MeshClient(settings, metrics, engine.transport())
    other.add_service(Service(name))
    mesh = await start_client()
    try:
        queues = await mesh.check_queues(other)
        assert queues == {each.queue_of(name): "" for each in (ServiceConsumer, RedeliveredCalls)}
        for queue in queues:
            await engine.channel.basic_publish(b"waiting", routing_key=queue)
        for _ in range(3):
            assert await mesh.check_queues(other) == queues
        for queue in queues:
            message = await engine.channel.basic_get(queue)
            assert message.body == b"waiting"
            assert not message.redelivered
    finally:
        await engine.delete_queues_of(other)


async def test_only_events_that_no_instance_consumes_are_counted(
    start_client: StartClient, engine: RabbitEngine, settings: Settings
) -> None:
    async def handle(event: MeshEvent) -> None: ...

    topic = f"{settings.app_name}.a"
    old = await start_client(EventHandler("old", topic, handle))
    mesh = await start_client(EventHandler("current", topic, handle))
    names = ["old", "current", "unknown"]
    assert await mesh.unconsumed_events(names) == {}
    await old.stop()

    async def counted(events: int) -> bool:
        waiting = await mesh.unconsumed_events(iter(names))
        return waiting == {f"{settings.app_name}.events.old.v1": events}

    await until(lambda: counted(0))
    for number in range(3):
        await mesh.publish(topic, number)
    await until(lambda: counted(3))


@pytest.mark.parametrize("refused", ["rpc_exchange", "events_exchange"])
async def test_the_check_of_rights_finds_what_the_broker_refuses(
    settings: Settings, engine: RabbitEngine, refused: str
) -> None:
    """RabbitMQ answers as if a right were missing: nobody may publish to an internal exchange, or
    unbind the default exchange."""
    internal = f"{settings.app_name}-internal"
    await engine.channel.exchange_declare(internal, exchange_type="direct", internal=True)
    name = internal if refused == "rpc_exchange" else ""
    connection = await aiormq.connect(settings.amqp_url)
    try:
        with pytest.raises(ChannelAccessRefused):
            await check_publishing(connection, settings.model_copy(update={refused: name}))
        await check_publishing(connection, settings)
    finally:
        await connection.close()
        await engine.channel.exchange_delete(internal)


async def test_checks_leave_no_channel_open(settings: Settings, engine: RabbitEngine) -> None:
    """One is made every 15 s, and RabbitMQ allows 2047 channels in a connection."""
    connection = await aiormq.connect(settings.amqp_url)
    exists = await (await connection.channel()).queue_declare(exclusive=True)
    receiver: Any = None
    consumer = RedeliveredCalls(settings, Service(settings.app_name), receiver, _nowhere)
    before = set(connection.channels)
    try:
        await check_publishing(connection, settings)
        assert await find_queue(connection, exists.queue or "") is not None
        assert await find_queue(connection, "no-such-queue") is None
        await consumer.check(connection)
        assert set(connection.channels) == before
    finally:
        await engine.channel.queue_delete(consumer.queue)
        await connection.close()


async def test_a_queue_that_may_not_be_consumed_is_found_by_its_check(
    settings: Settings, engine: RabbitEngine
) -> None:
    """Another connection has it for itself, which stands for a right that is missing."""
    name = f"{settings.app_name}-locked"
    await engine.channel.queue_declare(name, exclusive=True)

    class Consumer(QueueConsumer):
        async def declare(self, channel: aiormq.Channel) -> None: ...

        async def consume(self, connection: AbstractConnection) -> None: ...

    connection = await aiormq.connect(settings.amqp_url)
    try:
        with pytest.raises(ConnectionLost, match="RESOURCE_LOCKED"):
            await Consumer(name).check(connection)
    finally:
        await connection.close()


async def test_no_message_is_given_to_a_channel_that_was_lost(
    settings: Settings, metrics: Metrics
) -> None:
    """It would wait for its confirm until its deadline, with an unknown outcome."""

    class Usable:
        reason = ""

        async def channel(self) -> None: ...

    transport: Any = AmqpTransport(settings)
    mesh = MeshClient(settings, metrics, transport)
    await mesh.start()
    await until(lambda: mesh.status.connected)
    await mesh.stop()
    transport._publishing = Usable()
    async with asyncio.timeout(10):
        with pytest.raises(Problem) as caught:
            await mesh.publish(settings.app_name, 1)
    assert (caught.value.code, caught.value.outcome) == (Code.MESH_UNAVAILABLE, Outcome.NOT_SENT)


async def _nowhere(_: object) -> None: ...
