"""`bff dead-letters`: what was not handled is listed, shown, delivered again or deleted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import aiormq
import pytest
from bff import dead_letters
from bff.mesh.events import EventHandler, MeshEvent
from bff.mesh.rabbitmq import connection, event_queue
from bff.mesh.rabbitmq import dead_letters as queue
from bff.mesh.transport import ConnectionLost
from bff.settings import Settings
from bff.testing import until
from click.testing import CliRunner

from tests.engine.mesh.conftest import StartClient
from tests.engine.mesh.engines import RabbitEngine, raw

Bff = Callable[..., Awaitable[str]]


@pytest.fixture
def amqp_url(rabbitmq_url: str) -> str:
    return rabbitmq_url


@pytest.fixture
def bff(settings: Settings) -> Bff:
    """Runs one of the commands and returns its output."""
    commands = {command.name: command for command in dead_letters.COMMANDS}

    async def run(name: str, *arguments: str, exit_code: int = 0) -> str:
        result = await asyncio.to_thread(
            CliRunner().invoke, commands[name], arguments, obj=lambda: settings
        )
        assert result.exit_code == exit_code, result.output
        return result.output

    return run


class Handlers:
    def __init__(self) -> None:
        self.broken = True
        self.handled: list[tuple[str, MeshEvent]] = []

    def __call__(self, name: str) -> Callable[[MeshEvent], Awaitable[None]]:
        async def handle(event: MeshEvent) -> None:
            if self.broken:
                raise ValueError(name)
            self.handled.append((name, event))

        return handle


@pytest.fixture
async def handlers(
    start_client: StartClient, engine: RabbitEngine, settings: Settings, bff: Bff
) -> Handlers:
    """Two handlers, each with two dead letters."""
    handlers, topic = Handlers(), f"t{id(engine)}"
    await start_client(
        *(EventHandler(name, f"{topic}.*", handlers(name)) for name in ("first", "second"))
    )
    for payload in ("one", "two"):
        await engine.send_raw_event(f"{topic}.{payload}", raw(f"{topic}.{payload}", payload))

    async def died() -> bool:
        return "4 dead letters" in await bff("list")

    await until(died)
    return handlers


async def test_dead_letters_are_listed_by_handler_reason_and_age(
    handlers: Handlers, bff: Bff
) -> None:
    listed = await bff("list", "--handler", "first")
    assert "2 dead letters" in listed
    assert listed.count("  first  rejected  ") == 2
    for arguments, count in (
        (("--reason", "rejected"), 4),
        (("--reason", "maxlen"), 0),
        (("--newer-than", "1h"), 4),
        (("--older-than", "1m"), 0),
        ((listed.split()[0],), 2),
    ):
        assert f"{count} dead letters" in await bff("list", *arguments)
    shown = await bff("show", "--handler", "second")
    assert shown.count('"event": "one"') == 1
    await bff("list", "--older-than", "soon", exit_code=2)


async def test_a_replayed_event_reaches_only_its_handler_with_its_topic_and_id(
    handlers: Handlers, bff: Bff, engine: RabbitEngine
) -> None:
    handlers.broken = False
    assert "--yes to replay them" in await bff("replay", "--handler", "first")
    assert handlers.handled == []
    assert (await bff("replay", "--handler", "first", "--yes")).count("  replayed") == 2
    await until(lambda: len(handlers.handled) == 2)
    found = sorted((event.payload, name, event.topic) for name, event in handlers.handled)
    assert found == [(payload, "first", f"t{id(engine)}.{payload}") for payload in ("one", "two")]
    assert {event.correlation_id for _, event in handlers.handled} == {"c"}
    assert "2 dead letters" in await bff("list")


async def test_an_event_that_dies_again_keeps_its_topic(
    handlers: Handlers, bff: Bff, engine: RabbitEngine
) -> None:
    await bff("replay", "--handler", "first", "--yes")

    async def died_again() -> bool:
        return "4 dead letters" in await bff("list")

    await until(died_again)
    assert (await bff("list", "--handler", "first")).count(f"t{id(engine)}.one") == 1


async def test_a_letter_whose_handler_has_no_queue_is_kept(
    handlers: Handlers, bff: Bff, engine: RabbitEngine, settings: Settings
) -> None:
    await engine.channel.queue_delete(f"{settings.app_name}.events.second.v1")
    letter = f"{settings.app_name}.dead-letters.v1"
    properties: Any = None
    taken: list[Any] = []

    async def is_taken() -> bool:
        """`bff list` has taken them before, and given them back."""
        message = await engine.channel.basic_get(letter)
        taken.extend([message] if message.header is not None else [])
        return len(taken) == 4

    await until(is_taken)
    for message in taken:
        properties = message.header.properties
        if properties.headers["x-death"][0]["queue"].endswith("second.v1"):
            break
    properties.headers["x-death"][0]["queue"] = f"{settings.app_name}.events.renamed.v1"
    await engine.channel.basic_publish(b"{}", routing_key=letter, properties=properties)
    await engine.channel.basic_nack(taken[-1].delivery_tag, multiple=True, requeue=True)
    await until(lambda: _has(bff, "5 dead letters"))
    assert "kept: its handler has no queue" in await bff("replay", "--handler", "renamed", "--yes")
    assert "5 dead letters" in await bff("list")


async def _has(bff: Bff, words: str) -> bool:
    return words in await bff("list")


async def test_dropped_letters_are_gone(handlers: Handlers, bff: Bff) -> None:
    assert "--yes to drop them" in await bff("drop")
    assert "4 dead letters" in await bff("list")
    assert (await bff("drop", "--handler", "first", "--yes")).count("  dropped") == 2
    assert "2 dead letters" in await bff("list")


async def test_reading_often_loses_nothing(
    handlers: Handlers, bff: Bff, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RabbitMQ 4 deletes what was returned 20 times."""
    monkeypatch.setattr(queue, "_MAX_READS", 1)
    first = await bff("list")
    for _ in range(4):
        assert sorted((await bff("list")).splitlines()) == sorted(first.splitlines())


async def test_letters_are_back_when_a_command_ends(
    handlers: Handlers, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only once RabbitMQ has noticed the end of its connection. What was read often counts as
    read once."""
    monkeypatch.setattr(queue, "_MAX_READS", 1)
    left_open: list[aiormq.abc.AbstractConnection] = []

    async def leave_open(connection: aiormq.abc.AbstractConnection) -> None:
        left_open.append(connection)

    monkeypatch.setattr(queue, "close", leave_open)
    for _ in range(5):
        async with queue.open_dead_letters(settings) as letters:
            read = await letters.read()
            assert len(read) == 4
    headers = [letter.message.header.properties.headers or {} for letter in read]
    for one in headers:
        assert one.get("x-delivery-count", 0) in (0, 1)
    assert len(left_open) == 5
    for connection_ in left_open:
        await connection_.close()


async def test_a_queue_that_is_missing_hides_no_letters_of_the_other(
    handlers: Handlers, bff: Bff, engine: RabbitEngine, settings: Settings
) -> None:
    """RabbitMQ closes the channel on which it is asked for a queue that does not exist."""
    await engine.channel.queue_delete(f"{settings.app_name}.overflow.v1")
    handlers.broken = False
    assert "4 dead letters" in await bff("list")
    assert (await bff("replay", "--handler", "first", "--yes")).count("  replayed") == 2
    await until(lambda: len(handlers.handled) == 2)


async def test_a_broker_that_no_longer_answers_ends_a_command(
    handlers: Handlers,
    engine: RabbitEngine,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxied = settings.model_copy(update={"amqp_url": engine.proxied_url})
    errors: list[type[Exception]] = []
    with suppress(ConnectionLost):  # at the end: the letters cannot be put back
        async with queue.open_dead_letters(proxied) as letters:
            (letter, *_) = await letters.read()
            for module in (queue, connection):
                monkeypatch.setattr(module, "BROKER_SECONDS", 0.2)
            engine.proxy.silent = True
            for ask in (letters.read, lambda: letters.replay(letter)):
                try:
                    async with asyncio.timeout(5):
                        await ask()
                except Exception as error:
                    errors.append(type(error))
    engine.proxy.silent = False
    assert errors == [ConnectionLost, ConnectionLost]


async def test_an_error_of_the_command_itself_is_not_taken_for_one_of_the_broker(
    settings: Settings,
) -> None:
    """Output into a pipe that was closed, for example."""
    with pytest.raises(BrokenPipeError):
        async with queue.open_dead_letters(settings):
            raise BrokenPipeError


async def test_a_broker_that_is_away_is_told(settings: Settings) -> None:
    away = settings.model_copy(update={"amqp_url": "amqp://127.0.0.1:1,127.0.0.1:1/"})
    in_process = settings.model_copy(update={"amqp_url": "memory://"})
    for changed in (away, in_process):
        result = await asyncio.to_thread(
            CliRunner().invoke, dead_letters.COMMANDS[0], [], obj=lambda one=changed: one
        )
        assert result.exit_code == 1
        assert "AMQP_URL" in result.output


async def test_overflow_has_a_queue_of_its_own(
    start_client: StartClient,
    engine: RabbitEngine,
    settings: Settings,
    bff: Bff,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The queue of a handler that was renamed fills up, and must not push out dead letters."""
    monkeypatch.setattr(event_queue, "MAX_EVENTS", 5)
    monkeypatch.setattr(event_queue, "MAX_DEAD_LETTERS", 3)
    handlers, topic = Handlers(), f"t{id(engine)}.a"
    mesh = await start_client(EventHandler("first", topic, handlers("first")))
    await engine.send_raw_event(topic, raw(topic, "failed"))
    await until(lambda: _has(bff, "1 dead letters"))
    await mesh.stop()
    for number in range(20):
        await engine.send_raw_event(topic, raw(topic, number))
    await until(lambda: _has(bff, "4 dead letters"))
    assert "1 dead letters" in await bff("list", "--reason", "rejected")
    assert "3 dead letters" in await bff("list", "--reason", "maxlen", "--handler", "first")
    assert '"failed"' in await bff("show", "--reason", "rejected")


def test_the_id_of_a_letter_is_made_of_its_body_and_of_its_own_id(settings: Settings) -> None:
    """Services give equal bodies different correlation ids, and different bodies the same."""
    nothing: Any = None
    letters = queue.DeadLetterQueue(settings, nothing, nothing)

    def letter(body: bytes, correlation_id: str | None) -> queue.DeadLetter:
        properties = aiormq.spec.Basic.Properties(correlation_id=correlation_id)
        message: Any = SimpleNamespace(
            body=body, routing_key="t", header=SimpleNamespace(properties=properties)
        )
        return letters._letter("q", message)

    first = letter(b"a", "c")
    assert re.fullmatch("[0-9a-f]{16}", first.id)
    assert letter(b"a", "c").id == first.id
    assert len({first.id, letter(b"a", "d").id, letter(b"b", "c").id, letter(b"a", None).id}) == 4
    assert (first.topic, first.reason, first.handler) == ("t", "unknown", "")
    assert first.died_at.timestamp() == 0


@pytest.mark.parametrize(
    ("reads", "is_renewed"),
    [("no headers", False), (None, False), (9, False), (10, True), ("10", False)],
)
async def test_a_letter_that_was_read_often_is_published_again(
    settings: Settings, reads: Any, is_renewed: bool
) -> None:
    """RabbitMQ deletes it otherwise, after 20 reads."""
    sent: list[tuple[str, Any]] = []

    class Channel:
        async def basic_publish(self, body: bytes, **options: Any) -> None:
            sent.append(("publish", options))

        async def basic_ack(self, tag: int) -> None:
            sent.append(("ack", tag))

    channel: Any = Channel()
    nothing: Any = None
    letters = queue.DeadLetterQueue(settings, nothing, channel)
    headers: Any = {"a": "b"} if reads is None else {"a": "b", "x-delivery-count": reads}
    if reads == "no headers":
        headers = None
    properties = aiormq.spec.Basic.Properties(headers=headers)
    message: Any = SimpleNamespace(
        body=b"a", routing_key="t", delivery_tag=3, header=SimpleNamespace(properties=properties)
    )
    letters._open[3] = letters._letter("q", message)
    await letters.renew()
    if not is_renewed:
        assert (sent, list(letters._open)) == ([], [3])
        return
    (_, options), acked = sent
    assert (options["routing_key"], options["mandatory"]) == ("q", True)
    assert options["properties"].headers == {"a": "b"}
    assert (acked, letters._open) == (("ack", 3), {})
