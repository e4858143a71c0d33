"""Broadcasts are stored, then sent, then retained until they expire."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bff.broadcasts import retained as retained_module
from bff.broadcasts import service as service_module
from bff.cluster.keys import Keys
from bff.connections.messages import Event
from bff.db.database import Database
from bff.db.tables import Audience, Broadcast
from bff.errors import Code, Outcome, Problem
from bff.redis.client import RedisClient
from bff.settings import Settings
from bff.testing import until
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.engine.broadcasts.conftest import RecordingMessenger, Service


async def create(service: Service, text: str = "hi", **changes: Any) -> Broadcast:
    values: dict[str, Any] = {
        "created_by": "carol",
        "audience": Audience.ALL,
        "topic": "notice",
        "event": {"text": text},
    }
    return await service.create(**(values | changes))


def soon(seconds: float = 3600) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def texts(service: Service, user_id: str) -> list[str]:
    return [event.event["text"] for event in await service.retained_at_connect(user_id)]


class Loads:
    """Counts how often the retained broadcasts are loaded from the database."""

    def __init__(self, service: Service) -> None:
        self.count = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self._load = service._retained._load
        service._retained._load = self

    async def __call__(self) -> Any:
        loaded = await self._load()
        self.count += 1
        await self.gate.wait()
        return loaded


def another_instance(database: Database, redis: RedisClient, settings: Settings) -> Service:
    return Service(database, redis, RecordingMessenger(), settings)


# Creating


async def test_to_all(service: Service, messenger: RecordingMessenger) -> None:
    broadcast = await create(service)
    event = {"text": "hi", "broadcast_id": broadcast.id}
    assert messenger.sent == [("all", None, "notice", event)]
    assert (broadcast.message_ids, broadcast.addressed) == (["all/e/1"], 5)


async def test_to_users_once_each(service: Service, messenger: RecordingMessenger) -> None:
    broadcast = await create(service, audience=Audience.USERS, recipients=["alice", "bob", "alice"])
    assert messenger.sent[0][:2] == ("users", ["alice", "bob"])
    assert broadcast.recipients == ["alice", "bob"]
    assert broadcast.message_ids == ["user/alice/1", "user/bob/1"]
    assert broadcast.addressed == 4


async def test_to_one_connection(service: Service, messenger: RecordingMessenger) -> None:
    broadcast = await create(service, audience=Audience.CONNECTION, recipients=["i1.abc"])
    assert messenger.sent[0][:2] == ("connection", "i1.abc")
    assert (broadcast.message_ids, broadcast.addressed) == ([None], 1)


async def test_get_returns_the_created_broadcast(service: Service) -> None:
    created = await create(service, expires_at=soon())
    found = await service.get(created.id)
    assert found.model_dump() == created.model_dump()
    assert found.addressed == 5


async def test_broadcast_id_in_the_event_is_overwritten(
    service: Service, messenger: RecordingMessenger
) -> None:
    broadcast = await create(service, event={"broadcast_id": "another"})
    assert messenger.sent[0][3] == {"broadcast_id": broadcast.id}


INVALID: dict[str, dict[str, Any]] = {
    "all with recipients": {"audience": Audience.ALL, "recipients": ["alice"]},
    "no users": {"audience": Audience.USERS},
    "no user id": {"audience": Audience.USERS, "recipients": ["alice", "a\nb"]},
    "no connection": {"audience": Audience.CONNECTION},
    "two connections": {"audience": Audience.CONNECTION, "recipients": ["i.a", "i.b"]},
    "no connection id": {"audience": Audience.CONNECTION, "recipients": ["a b"]},
    "a connection and an expiry": {
        "audience": Audience.CONNECTION,
        "recipients": ["i.a"],
        "expires_at": soon(),
    },
    "an expiry in the past": {"expires_at": soon(-1)},
    "an expiry after the year 9998": {"expires_at": datetime.max.replace(tzinfo=UTC)},
    "no JSON": {"event": {"text": object()}},
    "no JSON that a frame can hold": {"event": {"text": "\ud800"}},
    "deeper than a frame": {"event": json.loads('{"a":' * 40 + "1" + "}" * 40)},
    "no event name": {"topic": "a\nb"},
}


@pytest.mark.parametrize("what", INVALID)
async def test_an_invalid_broadcast_is_neither_stored_nor_sent(
    service: Service, messenger: RecordingMessenger, what: str
) -> None:
    with pytest.raises(Problem) as caught:
        await create(service, **INVALID[what])
    assert caught.value.code is Code.INVALID_PARAMS
    assert await service.list() == []
    assert messenger.sent == []


async def test_an_event_may_be_as_large_as_a_frame(
    service: Service, messenger: RecordingMessenger, settings: Settings
) -> None:
    most = settings.max_frame_bytes - len('{"text":""}')
    await create(service, "x" * most)
    with pytest.raises(Problem, match=f"larger than {settings.max_frame_bytes} bytes") as caught:
        await create(service, "x" * (most + 1))
    assert caught.value.code is Code.INVALID_PARAMS
    assert len(messenger.sent) == len(await service.list()) == 1


async def test_nan_is_null_in_what_is_stored_and_in_what_is_sent(
    service: Service, messenger: RecordingMessenger
) -> None:
    broadcast = await create(service, event={"n": float("nan")})
    assert messenger.sent[0][3] == {"n": None, "broadcast_id": broadcast.id}
    assert (await service.get(broadcast.id)).event == {"n": None}


async def test_what_was_sent_is_no_failure_although_the_database_is_away_afterwards(
    service: Service,
    database: Database,
    messenger: RecordingMessenger,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    to_all = messenger.to_all

    def away() -> None:
        raise ConnectionRefusedError

    async def send_and_lose_the_database(topic: str, event: Any) -> Any:
        monkeypatch.setattr(database, "session", away)
        return await to_all(topic, event)

    with monkeypatch.context() as patch:
        patch.setattr(messenger, "to_all", send_and_lose_the_database)
        broadcast = await create(service)
    monkeypatch.undo()
    assert (broadcast.message_ids, broadcast.addressed) == (["all/e/1"], 5)
    assert (await service.get(broadcast.id)).addressed is None
    (line,) = [vars(one) for one in caplog.records if one.levelname == "ERROR"]
    assert (line["message"], line["broadcast"]) == (
        "broadcast sent, but result not stored: database unavailable",
        broadcast.id,
    )


async def test_it_is_stored_before_it_is_sent(
    service: Service, messenger: RecordingMessenger
) -> None:
    messenger.failure = RedisConnectionError("refused")
    with pytest.raises(Problem) as caught:
        await create(service)
    (stored,) = await service.list()
    assert stored.addressed is None
    assert stored.message_ids == []
    assert caught.value.code is Code.SERVICE_UNAVAILABLE
    assert caught.value.outcome is Outcome.UNKNOWN
    assert not caught.value.retryable
    assert stored.id in caught.value.description


async def test_other_errors_of_the_messenger_are_not_caught(
    service: Service, messenger: RecordingMessenger
) -> None:
    messenger.failure = KeyError("bug")
    with pytest.raises(KeyError):
        await create(service)


# Reading


async def test_an_unknown_id_is_not_found(service: Service) -> None:
    for look in (service.get("none"), service.list(before="none")):
        with pytest.raises(Problem) as caught:
            await look
        assert caught.value.code is Code.NOT_FOUND


async def test_pages_are_complete_and_newest_first(service: Service, database: Database) -> None:
    moment = soon(-60)
    made = [await create(service, f"{number}") for number in range(7)]
    async with database.session() as session:  # the same moment, to the microsecond
        for broadcast in made[2:5]:
            broadcast.created_at = moment
            await session.merge(broadcast)
        await session.commit()
    seen: list[str] = []
    page = await service.list(2)
    while page:
        seen += [broadcast.id for broadcast in page]
        page = await service.list(2, before=page[-1].id)
    assert len(seen) == 7
    assert set(seen) == {broadcast.id for broadcast in made}
    assert seen[:2] == [made[6].id, made[5].id]


# Retained broadcasts


async def test_a_broadcast_is_retained_for_its_audience_until_it_expires(
    service: Service, messenger: RecordingMessenger
) -> None:
    with pytest.raises(Problem, match="future"):
        await create(service, "gone", expires_at=soon(-1))
    await create(service, "not retained")
    everyone = await create(service, "all", expires_at=soon())
    await create(service, "a", audience=Audience.USERS, recipients=["alice"], expires_at=soon())
    assert await texts(service, "alice") == ["all", "a"]
    assert await texts(service, "bob") == ["all"]
    sent = {"text": "all", "broadcast_id": everyone.id}
    assert await service.retained_at_connect("bob") == [Event("notice", sent)]
    assert ("all", None, "notice", sent) in messenger.sent


async def test_an_expired_broadcast_in_the_cache_is_not_sent(service: Service) -> None:
    await create(service, "short", expires_at=soon(1))
    loads = Loads(service)
    assert await texts(service, "alice") == ["short"]

    async def is_over() -> bool:
        return await texts(service, "alice") == []

    await until(is_over)
    assert loads.count == 1


async def test_concurrent_connects_load_once(service: Service) -> None:
    await create(service, "all", expires_at=soon())
    loads = Loads(service)
    loads.gate.clear()
    many = [asyncio.create_task(texts(service, "alice")) for _ in range(50)]
    await until(lambda: loads.count == 1)
    many[0].cancel()
    loads.gate.set()
    results = await asyncio.gather(*many, return_exceptions=True)
    assert results[1:] == [["all"]] * 49
    assert loads.count <= 2, "once more because the first load was cancelled"
    assert await texts(service, "bob") == ["all"]
    assert loads.count <= 2


async def test_a_new_broadcast_is_retained_on_every_instance_at_once(
    service: Service, database: Database, redis: RedisClient, settings: Settings
) -> None:
    other = another_instance(database, redis, settings)
    assert await texts(other, "alice") == []
    for number in range(5):
        await create(service, str(number), expires_at=soon())
        assert (await texts(other, "alice"))[-1] == str(number)
        assert (await texts(service, "alice"))[-1] == str(number)


async def test_a_broadcast_created_during_a_load_is_not_missed(
    service: Service, database: Database, redis: RedisClient, settings: Settings
) -> None:
    other = another_instance(database, redis, settings)
    loads = Loads(other)
    loads.gate.clear()
    early = asyncio.create_task(texts(other, "alice"))
    await until(lambda: loads.count == 1)
    await create(service, "late", expires_at=soon())
    loads.gate.set()
    await early
    assert await texts(other, "alice") == ["late"]


async def test_instances_reload_when_redis_lost_its_data(
    service: Service,
    database: Database,
    redis: RedisClient,
    settings: Settings,
) -> None:
    other = another_instance(database, redis, settings)
    await create(service, "one", expires_at=soon())
    assert await texts(other, "alice") == ["one"]
    loads = Loads(other)
    await redis.delete(Keys(settings.prefix).all.meta)
    assert await texts(other, "alice") == ["one"]
    assert await texts(other, "alice") == ["one"]
    assert loads.count == 1
    await create(service, "two", expires_at=soon())
    assert await texts(other, "alice") == ["one", "two"]


async def test_the_newest_are_retained(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "MAX_RETAINED", 3)
    for number in range(5):
        await create(service, str(number), expires_at=soon())
    assert await texts(service, "alice") == ["2", "3", "4"]


async def test_broadcasts_to_users_do_not_displace_those_to_all(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "MAX_RETAINED", 3)
    await create(service, "all", expires_at=soon())
    for number in range(5):
        bobs = {"audience": Audience.USERS, "recipients": ["bob"]}
        await create(service, str(number), expires_at=soon(), **bobs)
    assert await texts(service, "alice") == ["all"]
    assert await texts(service, "bob") == ["all", "0", "1", "2", "3", "4"]


async def test_a_user_gets_the_newest_of_both_audiences(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retained_module, "MAX_RETAINED", 3)
    for number in range(6):
        to_bob = {"audience": Audience.USERS, "recipients": ["bob"]} if number % 2 else {}
        await create(service, str(number), expires_at=soon(), **to_bob)
    assert await texts(service, "alice") == ["0", "2", "4"]
    assert await texts(service, "bob") == ["3", "4", "5"]


async def test_the_newest_to_users_are_retained(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "MAX_TARGETED", 2)
    for user in ("alice", "bob", "bob"):
        await create(service, user, audience=Audience.USERS, recipients=[user], expires_at=soon())
    assert await texts(service, "alice") == []
    assert await texts(service, "bob") == ["bob", "bob"]


async def test_a_failed_load_raises_a_problem_and_is_retried(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(service, "all", expires_at=soon())

    async def fail() -> Any:
        raise OSError("refused")

    with monkeypatch.context() as patch:
        patch.setattr(service._retained, "_load", fail)
        with pytest.raises(Problem) as caught:
            await service.retained_at_connect("alice")
    assert caught.value.code is Code.SERVICE_UNAVAILABLE
    assert await texts(service, "alice") == ["all"]


async def test_a_load_has_a_timeout(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retained_module, "_LOAD_SECONDS", 0.05)
    loads = Loads(service)
    loads.gate.clear()
    async with asyncio.timeout(10):
        with pytest.raises(Problem):
            await service.retained_at_connect("alice")
