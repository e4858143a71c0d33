"""Events reach each event handler in order, independently of other event handlers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bff.mesh.events import EventHandler, MeshEvent, RetryEvent
from bff.names import topic_matches
from bff.telemetry.metrics import Metrics
from bff.testing import until

from tests.engine.mesh.conftest import StartClient
from tests.engine.mesh.engines import Engine, raw


class Recorder:
    """A handler that records events, and raises the errors in `fails`."""

    def __init__(self) -> None:
        self.handled: list[Any] = []
        self.tried: list[Any] = []
        self.events: list[MeshEvent] = []
        self.fails: dict[Any, list[BaseException]] = {}

    async def __call__(self, event: MeshEvent) -> None:
        self.tried.append(event.payload)
        await asyncio.sleep(0)
        if self.fails.get(event.payload):
            raise self.fails[event.payload].pop(0)
        self.handled.append(event.payload)
        self.events.append(event)


@pytest.fixture
def first() -> Recorder:
    return Recorder()


@pytest.fixture
def second() -> Recorder:
    return Recorder()


def _topic(engine: Engine, topic: str) -> str:
    """A topic that only this test uses: the broker may be shared."""
    return f"t{id(engine)}.{topic}"


async def _started(
    start_client: StartClient, engine: Engine, **event_handlers: tuple[str, Recorder]
) -> Any:
    made = [
        EventHandler(name, _topic(engine, topic), to)
        for name, (topic, to) in event_handlers.items()
    ]
    mesh = await start_client(*made)
    for index, (topic, to) in enumerate(event_handlers.values()):
        await _bound(mesh, _topic(engine, topic).replace("*", f"probe{index}"), to)
        to.handled.clear()
        to.tried.clear()
        to.events.clear()
    return mesh


async def _bound(mesh: Any, topic: str, to: Recorder) -> None:
    """Publish until the handler gets an event: queues are declared after connecting."""

    async def is_bound() -> bool:
        await mesh.publish(topic, "probe")
        await asyncio.sleep(0.02)
        return bool(to.handled)

    await until(is_bound)
    await mesh.publish(topic, "last probe")
    await until(lambda: "last probe" in to.handled)


async def test_events_arrive_complete_and_in_order(
    start_client: StartClient, engine: Engine, first: Recorder
) -> None:
    mesh = await _started(start_client, engine, first=("orders.*.updated", first))
    topic = _topic(engine, "orders.7.updated")
    for number in range(100):
        await mesh.publish(topic, number, context={"user_id": "u"}, target=["u"], trace_id="t")
    await mesh.publish(_topic(engine, "orders.7.deleted"), "other")
    await until(lambda: len(first.handled) >= 100)
    assert first.handled == list(range(100))
    event = first.events[0]
    assert (event.topic, event.context, event.target, event.trace_id) == (
        topic,
        {"user_id": "u"},
        ["u"],
        "t",
    )
    assert len({event.id for event in first.events}) == 100


async def test_an_event_without_subscribers_is_not_an_error(
    start_client: StartClient, engine: Engine
) -> None:
    mesh = await start_client()
    await mesh.publish(_topic(engine, "unused"), 1)


async def test_an_event_is_retried_before_the_next_one(
    start_client: StartClient, engine: Engine, first: Recorder, metrics: Metrics
) -> None:
    mesh = await _started(start_client, engine, first=("a", first))
    first.fails["x"] = [RetryEvent("not now"), RetryEvent("not now")]
    await mesh.publish(_topic(engine, "a"), "x")
    await mesh.publish(_topic(engine, "a"), "y")
    await until(lambda: len(first.handled) == 2)
    assert first.tried == ["x", "x", "x", "y"]
    labels = {"handler": "first", "result": "retried"}
    assert metrics.registry.get_sample_value("bff_mesh_events_total", labels) == 2


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_an_event_that_cannot_be_handled_moves_to_the_dead_letters(
    start_client: StartClient,
    engine: Engine,
    first: Recorder,
    metrics: Metrics,
    error: type[BaseException],
) -> None:
    """One cause is the cancellation of a task that the handler awaits."""
    mesh = await _started(start_client, engine, first=("a", first))
    first.fails["poison"] = [error("poison")]
    topic = _topic(engine, "a")
    malformed = b"{no json"
    await engine.send_raw_event(topic, raw(topic, "poison"))
    await engine.send_raw_event(topic, malformed)
    await mesh.publish(topic, "y")
    await until(lambda: first.handled == ["y"])
    assert first.tried == ["poison", "y"]
    letters: list[bytes] = []

    async def both_arrived() -> bool:
        letters.extend(await engine.dead_letters())
        return len(letters) >= 2

    await until(both_arrived)
    assert letters[:2] == [raw(topic, "poison"), malformed]
    labels = {"handler": "first", "result": "dead_lettered"}
    assert metrics.registry.get_sample_value("bff_mesh_events_total", labels) == 2


async def test_a_handler_that_retries_does_not_delay_other_handlers(
    start_client: StartClient, engine: Engine, first: Recorder, second: Recorder
) -> None:
    mesh = await _started(start_client, engine, first=("a", first), second=("#", second))
    first.fails["x"] = [RetryEvent("not now") for _ in range(1000)]
    for payload in ("x", "y", "z"):
        await mesh.publish(_topic(engine, "a"), payload)
    await until(lambda: second.handled[-3:] == ["x", "y", "z"])
    assert first.handled == []


async def test_events_wait_while_all_instances_are_down(
    start_client: StartClient, engine: Engine, first: Recorder
) -> None:
    mesh = await _started(start_client, engine, first=("a", first))
    await mesh.stop()
    other = await start_client()
    for number in range(5):
        await other.publish(_topic(engine, "a"), number)
    assert first.handled == []
    await start_client(EventHandler("first", _topic(engine, "a"), first))
    await until(lambda: len(first.handled) >= 5)
    assert first.handled == list(range(5))


async def test_one_of_two_instances_handles_an_event(
    start_client: StartClient, engine: Engine, first: Recorder, second: Recorder
) -> None:
    mesh = await _started(start_client, engine, first=("a", first))
    other = await start_client(EventHandler("first", _topic(engine, "a"), second))
    for number in range(20):
        await other.publish(_topic(engine, "a"), number)
    await until(lambda: len(first.handled) + len(second.handled) >= 20)
    assert first.handled + second.handled == list(range(20))
    await mesh.stop()
    await other.publish(_topic(engine, "a"), "after")
    await until(lambda: second.handled[-1:] == ["after"])


async def test_an_old_and_a_new_version_run_side_by_side(
    start_client: StartClient, engine: Engine, first: Recorder, second: Recorder
) -> None:
    """The new one has one more event handler. Its events wait while the new version is stopped."""
    old = await _started(start_client, engine, first=("a", first))
    event_handlers = [
        EventHandler(name, _topic(engine, "a"), to) for name, to in _both(first, second)
    ]
    new = await start_client(*event_handlers)
    for number in range(10):
        await old.publish(_topic(engine, "a"), number)
    await until(lambda: len(first.handled) >= 10 and len(second.handled) >= 10)
    await new.stop()
    await old.publish(_topic(engine, "a"), "while the new version is stopped")
    await until(lambda: "while the new version is stopped" in first.handled)
    assert first.handled[:10] == second.handled == list(range(10))
    await start_client(*event_handlers)
    await until(lambda: second.handled[10:] == ["while the new version is stopped"])
    assert len(first.handled) == 11


def _both(first: Recorder, second: Recorder) -> list[tuple[str, Recorder]]:
    return [("first", first), ("second", second)]


async def test_an_event_is_delivered_again_after_the_connection_was_lost(
    start_client: StartClient, engine: Engine, first: Recorder
) -> None:
    mesh = await _started(start_client, engine, first=("a", first))
    first.fails["x"] = [RetryEvent("not now") for _ in range(1000)]
    await mesh.publish(_topic(engine, "a"), "x")
    await mesh.publish(_topic(engine, "a"), "y")
    await until(lambda: bool(first.tried))
    await engine.interrupt()
    await until(lambda: not mesh.status.connected)
    first.fails.clear()
    await engine.resume()
    await until(lambda: len(first.handled) >= 2, 30)
    assert first.handled == ["x", "y"]


async def test_nan_in_an_event_is_null(
    start_client: StartClient, engine: Engine, first: Recorder
) -> None:
    await _started(start_client, engine, first=("a", first))
    topic = _topic(engine, "a")
    await engine.send_raw_event(topic, raw(topic, float("nan")))
    await until(lambda: first.handled == [None])


async def test_names_of_event_handlers_are_unique(start_client: StartClient) -> None:
    event_handler = EventHandler("first", "a", Recorder())
    with pytest.raises(ValueError, match="two event handlers"):
        await start_client(event_handler, event_handler)


@pytest.mark.parametrize("name", ["", "a b", ".a", "a\n", "a" * 101])
def test_the_name_of_an_event_handler_is_validated(name: str) -> None:
    with pytest.raises(ValueError, match="a name has"):
        EventHandler(name, "a", Recorder())


def test_a_name_of_100_letters_and_a_topic_of_255_bytes_are_the_longest() -> None:
    """RabbitMQ refuses a longer topic, and the names of queues have a limit too."""
    EventHandler("a" * 100, "é" * 127 + "x", Recorder())
    for topic in ("", "é" * 128, "x" * 256):
        with pytest.raises(ValueError, match="a topic has 1 to 255 bytes"):
            EventHandler("a", topic, Recorder())


@pytest.mark.parametrize(
    ("pattern", "topic", "fits"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.*", "a.b.c", False),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("#", "a", True),
        ("#.c", "a.b.c", True),
        ("a.#.c", "a.c", True),
        ("a.#.c", "a.b", False),
    ],
)
def test_topics_match_as_in_amqp(pattern: str, topic: str, fits: bool) -> None:
    assert topic_matches(pattern.split("."), topic.split(".")) is fits


def test_the_reason_of_a_retry_is_its_text() -> None:
    assert str(RetryEvent("no paper")) == str(RetryEvent(reason="no paper")) == "no paper"
    assert str(RetryEvent(limited=False)) == ""
