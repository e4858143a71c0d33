"""Events reach each rule in order, wait for it, and harm no other rule."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bff.mesh.events import EventHandler, MeshEvent, RetryEvent, topic_matches
from bff.telemetry.metrics import Metrics
from bff.testing import until

from tests.engine.mesh.conftest import StartClient
from tests.engine.mesh.engines import Engine, raw


class Recorder:
    """A handler that keeps what it took, and fails as told."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.tried: list[Any] = []
        self.events: list[MeshEvent] = []
        self.fails: dict[Any, list[BaseException]] = {}

    async def __call__(self, event: MeshEvent) -> None:
        self.tried.append(event.payload)
        await asyncio.sleep(0)
        if self.fails.get(event.payload):
            raise self.fails[event.payload].pop(0)
        self.taken.append(event.payload)
        self.events.append(event)


@pytest.fixture
def first() -> Recorder:
    return Recorder()


@pytest.fixture
def second() -> Recorder:
    return Recorder()


def _topic(engine: Engine, topic: str) -> str:
    """A topic of this test alone: the broker may be shared."""
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
        to.taken.clear()
        to.tried.clear()
        to.events.clear()
    return mesh


async def _bound(mesh: Any, topic: str, to: Recorder) -> None:
    """Publish until the rule hears: rules are declared after the client is connected."""

    async def heard() -> bool:
        await mesh.publish(topic, "probe")
        await asyncio.sleep(0.02)
        return bool(to.taken)

    await until(heard)
    await mesh.publish(topic, "last probe")
    await until(lambda: "last probe" in to.taken)


async def test_events_come_whole_and_in_order(
    start_client: StartClient, engine: Engine, first: Recorder
) -> None:
    mesh = await _started(start_client, engine, first=("orders.*.updated", first))
    topic = _topic(engine, "orders.7.updated")
    for number in range(100):
        await mesh.publish(topic, number, context={"user_id": "u"}, target=["u"], trace_id="t")
    await mesh.publish(_topic(engine, "orders.7.deleted"), "other")
    await until(lambda: len(first.taken) >= 100)
    assert first.taken == list(range(100))
    event = first.events[0]
    assert (event.topic, event.context, event.target, event.trace_id) == (
        topic,
        {"user_id": "u"},
        ["u"],
        "t",
    )
    assert len({event.id for event in first.events}) == 100


async def test_an_event_nobody_wants_is_no_error(start_client: StartClient, engine: Engine) -> None:
    mesh = await start_client()
    await mesh.publish(_topic(engine, "nobody"), 1)


async def test_an_event_not_taken_is_tried_again_before_the_next(
    start_client: StartClient, engine: Engine, first: Recorder, metrics: Metrics
) -> None:
    mesh = await _started(start_client, engine, first=("a", first))
    first.fails["x"] = [RetryEvent("not now"), RetryEvent("not now")]
    await mesh.publish(_topic(engine, "a"), "x")
    await mesh.publish(_topic(engine, "a"), "y")
    await until(lambda: len(first.taken) == 2)
    assert first.tried == ["x", "x", "x", "y"]
    labels = {"rule": "first", "result": "retried"}
    assert metrics.registry.get_sample_value("bff_mesh_events_total", labels) == 2


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_a_poisonous_event_goes_to_the_dead_letters_and_the_next_is_handled(
    start_client: StartClient,
    engine: Engine,
    first: Recorder,
    metrics: Metrics,
    error: type[BaseException],
) -> None:
    """Poison too: the cancellation of a task that the handler waited for."""
    mesh = await _started(start_client, engine, first=("a", first))
    first.fails["poison"] = [error("poison")]
    topic = _topic(engine, "a")
    malformed = b"{no json"
    await engine.send_raw_event(topic, raw(topic, "poison"))
    await engine.send_raw_event(topic, malformed)
    await mesh.publish(topic, "y")
    await until(lambda: first.taken == ["y"])
    assert first.tried == ["poison", "y"]
    letters: list[bytes] = []

    async def all_there() -> bool:
        letters.extend(await engine.dead_letters())
        return len(letters) >= 2

    await until(all_there)
    assert letters[:2] == [raw(topic, "poison"), malformed]
    labels = {"rule": "first", "result": "dead_lettered"}
    assert metrics.registry.get_sample_value("bff_mesh_events_total", labels) == 2


async def test_a_rule_that_cannot_go_on_holds_up_no_other(
    start_client: StartClient, engine: Engine, first: Recorder, second: Recorder
) -> None:
    mesh = await _started(start_client, engine, first=("a", first), second=("#", second))
    first.fails["x"] = [RetryEvent("not now") for _ in range(1000)]
    for payload in ("x", "y", "z"):
        await mesh.publish(_topic(engine, "a"), payload)
    await until(lambda: second.taken[-3:] == ["x", "y", "z"])
    assert first.taken == []


async def test_events_wait_while_all_instances_are_down(
    start_client: StartClient, engine: Engine, first: Recorder
) -> None:
    mesh = await _started(start_client, engine, first=("a", first))
    await mesh.stop()
    other = await start_client()
    for number in range(5):
        await other.publish(_topic(engine, "a"), number)
    assert first.taken == []
    await start_client(EventHandler("first", _topic(engine, "a"), first))
    await until(lambda: len(first.taken) >= 5)
    assert first.taken == list(range(5))


async def test_of_two_instances_one_handles_an_event(
    start_client: StartClient, engine: Engine, first: Recorder, second: Recorder
) -> None:
    mesh = await _started(start_client, engine, first=("a", first))
    other = await start_client(EventHandler("first", _topic(engine, "a"), second))
    for number in range(20):
        await other.publish(_topic(engine, "a"), number)
    await until(lambda: len(first.taken) + len(second.taken) >= 20)
    assert first.taken + second.taken == list(range(20))
    await mesh.stop()
    await other.publish(_topic(engine, "a"), "after")
    await until(lambda: second.taken[-1:] == ["after"])


async def test_an_old_and_a_new_version_run_side_by_side(
    start_client: StartClient, engine: Engine, first: Recorder, second: Recorder
) -> None:
    """The new one has a rule more. What is for it alone waits until it is there again."""
    old = await _started(start_client, engine, first=("a", first))
    event_handlers = [
        EventHandler(name, _topic(engine, "a"), to) for name, to in _both(first, second)
    ]
    new = await start_client(*event_handlers)
    for number in range(10):
        await old.publish(_topic(engine, "a"), number)
    await until(lambda: len(first.taken) >= 10 and len(second.taken) >= 10)
    await new.stop()
    await old.publish(_topic(engine, "a"), "while the new one is away")
    await until(lambda: "while the new one is away" in first.taken)
    assert first.taken[:10] == second.taken == list(range(10))
    await start_client(*event_handlers)
    await until(lambda: second.taken[10:] == ["while the new one is away"])
    assert len(first.taken) == 11


def _both(first: Recorder, second: Recorder) -> list[tuple[str, Recorder]]:
    return [("first", first), ("second", second)]


async def test_an_event_in_work_comes_again_when_the_broker_went(
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
    await until(lambda: len(first.taken) >= 2, 30)
    assert first.taken == ["x", "y"]


async def test_nan_in_an_event_is_null(
    start_client: StartClient, engine: Engine, first: Recorder
) -> None:
    await _started(start_client, engine, first=("a", first))
    topic = _topic(engine, "a")
    await engine.send_raw_event(topic, raw(topic, float("nan")))
    await until(lambda: first.taken == [None])


async def test_two_rules_of_one_name_are_refused(start_client: StartClient) -> None:
    event_handler = EventHandler("first", "a", Recorder())
    with pytest.raises(ValueError, match="two event rules"):
        await start_client(event_handler, event_handler)


def test_a_rule_needs_a_name_that_can_name_a_queue() -> None:
    with pytest.raises(ValueError, match="names no rule"):
        EventHandler("no rule", "a", Recorder())


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
