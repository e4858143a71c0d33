"""What is revoked is known to every instance, and outlives the data of Redis."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from bff.auth.caller import Caller
from bff.auth.revocations import Revocation, RevocationKind, RevocationList, SessionEnded
from bff.cluster.keys import Keys
from bff.connections.positions import Position
from bff.errors import Problem
from bff.redis.client import RedisClient
from bff.settings import Settings
from bff.testing import until

from tests.engine.cluster.conftest import ClusterMember, StartInstance, running

ALICE = Caller(
    user_id="alice",
    username="Alice",
    scopes=frozenset(),
    session_id="s-1",
    expires_at=int(time.time()) + 600,
    token_id="t-1",
    issued_at=time.time() - 60,
)
OTHER_SESSION = replace(ALICE, session_id="s-2", token_id="t-2")


async def until_in_sync(*instances: ClusterMember) -> None:
    await until(lambda: all(one.revocations._version is not None for one in instances))


async def is_refused(instance: ClusterMember, caller: Caller) -> bool:
    try:
        await instance.revocations.check(caller)
    except SessionEnded:
        return True
    return False


async def version(instance: ClusterMember) -> Position:
    """What Redis counts: a connect reads it."""
    _, versions = await instance.subscriptions.join(await instance.join("nora"), {})
    return versions.revocations_version


async def test_a_revoked_session_is_refused_on_every_instance_and_no_other_session_is(
    start: StartInstance,
) -> None:
    a, b = await start(), await start()
    await a.revocations.revoke_session("s-1")
    assert await is_refused(a, ALICE)
    await until(lambda: b.revocations.is_revoked(ALICE))
    for instance in (a, b):
        assert not await is_refused(instance, OTHER_SESSION)


async def test_a_revoked_token_is_refused_and_no_other_token_is(start: StartInstance) -> None:
    a, b = await start(), await start()
    await a.revocations.revoke_token("t-1")
    await until(lambda: b.revocations.is_revoked(ALICE))
    assert not b.revocations.is_revoked(OTHER_SESSION)


async def test_a_revoked_user_is_refused_with_every_earlier_sign_in(start: StartInstance) -> None:
    a, b = await start(), await start()
    await a.revocations.revoke_user("alice")
    await until(lambda: b.revocations.is_revoked(ALICE))
    assert b.revocations.is_revoked(OTHER_SESSION)
    assert b.revocations.is_revoked(replace(ALICE, issued_at=0)), "iat is unknown"
    assert not b.revocations.is_revoked(replace(ALICE, issued_at=time.time() + 1))
    assert not b.revocations.is_revoked(replace(ALICE, user_id="bob"))


async def test_an_instance_that_starts_later_knows_the_earlier_revocations(
    start: StartInstance,
) -> None:
    a = await start()
    await a.revocations.revoke_session("s-1")
    late = await start()
    assert await is_refused(late, ALICE)
    await until_in_sync(late)
    assert late.revocations.is_revoked(ALICE)


async def test_a_connect_sees_a_revocation_whose_message_has_not_come(
    redis: RedisClient, settings: Settings, start: StartInstance
) -> None:
    a = await start()
    await until_in_sync(a)
    unheard = ClusterMember(redis, settings)  # listens to nothing
    await unheard.revocations.sync()
    assert not await unheard.revocations.is_revoked_at(ALICE, await version(unheard))
    await a.revocations.revoke_session("s-1")
    assert not unheard.revocations.is_revoked(ALICE)
    assert await unheard.revocations.is_revoked_at(ALICE, await version(a))


async def test_http_asks_redis_while_pubsub_is_stalled(
    redis: RedisClient, settings: Settings, start: StartInstance
) -> None:
    a = await start()
    stalled = ClusterMember(redis, settings)
    await stalled.revocations.sync()
    assert not await is_refused(stalled, ALICE)
    await a.revocations.revoke_session("s-1")
    assert await is_refused(stalled, ALICE)
    assert not await is_refused(stalled, OTHER_SESSION)


async def test_a_revocation_during_a_stall_is_applied_once_messages_arrive_again(
    redis: RedisClient, settings: Settings, start: StartInstance
) -> None:
    a = await start()
    stalled = ClusterMember(redis, settings)
    closed: list[str] = []
    stalled.revocations.on_revoked = lambda new: closed.extend(one.key for one in new)
    await a.revocations.revoke_session("s-1")
    assert closed == []
    async with running(stalled):
        await until(lambda: closed == ["s:s-1"])


async def revoke_unheard(
    a: ClusterMember, b: ClusterMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Revoke Alice's session on one instance; another one loses the message."""
    with monkeypatch.context() as patch:
        heard = asyncio.Event()
        patch.setattr(b.revocations, "on_message", lambda _: heard.set())
        await a.revocations.revoke_session("s-1")
        await heard.wait()
    assert not b.revocations.is_revoked(ALICE)


async def test_a_lost_message_is_made_up_for_by_the_next_one(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await start(), await start(pubsub_probe_seconds=60)  # compares rarely
    await until_in_sync(a, b)
    await revoke_unheard(a, b, monkeypatch)
    await a.revocations.revoke_session("s-9")
    await until(lambda: b.revocations.is_revoked(ALICE))


class Asked:
    """An instance that listens to nothing, with a clock of its own; counts its questions to Redis
    about a caller."""

    def __init__(
        self, redis: RedisClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.revocations = ClusterMember(redis, settings).revocations
        self.now = 1000.0
        self.error: Exception | None = None
        self._questions = 0
        self._ask = self.revocations.is_revoked_in_redis
        monkeypatch.setattr("bff.cluster.revocations._now", lambda: self.now)
        monkeypatch.setattr(self.revocations, "is_revoked_in_redis", self._count)

    async def _count(self, caller: Caller) -> bool:
        self._questions += 1
        if self.error is not None:
            raise self.error
        return await self._ask(caller)

    async def by_a_request(self) -> bool:
        before = self._questions
        await self.revocations.check(ALICE)
        return self._questions > before

    async def by_a_connect(self, version: Position) -> bool:
        before = self._questions
        assert not await self.revocations.is_revoked_at(ALICE, version)
        return self._questions > before


@pytest.fixture
def asked(redis: RedisClient, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(redis, settings, monkeypatch)


async def test_requests_ask_redis_only_while_messages_may_be_missing(
    asked: Asked, settings: Settings
) -> None:
    assert await asked.by_a_request(), "nothing was compared yet"
    asked.revocations.on_subscribed()
    assert await asked.by_a_request(), "nothing was compared since the first message"
    await asked.revocations.sync()
    assert not await asked.by_a_request()
    asked.now += 2 * settings.pubsub_probe_seconds - 0.5
    assert not await asked.by_a_request()
    asked.revocations.on_subscribed()
    asked.now += 2 * settings.pubsub_probe_seconds - 0.5
    assert not await asked.by_a_request(), "another message has come"
    asked.now += 0.5
    assert await asked.by_a_request(), "for long no message has come"
    asked.revocations.on_subscribed()
    assert not await asked.by_a_request()
    asked.revocations.on_stalled()
    await asked.revocations.sync()
    assert await asked.by_a_request(), "a comparison does not end a stall"
    asked.revocations.on_subscribed()
    assert await asked.by_a_request(), "a message may have been lost since the comparison"
    await asked.revocations.sync()
    assert not await asked.by_a_request()


async def test_while_redis_does_not_answer_a_request_asks_every_five_seconds(
    asked: Asked,
) -> None:
    asked.error = ConnectionError()
    assert await asked.by_a_request()
    asked.now += 4.9
    assert not await asked.by_a_request()
    asked.now += 0.1
    assert await asked.by_a_request()
    asked.error = None
    asked.now += 5
    assert await asked.by_a_request()
    assert await asked.by_a_request(), "it answers, and nothing was compared"


@pytest.mark.parametrize(
    ("sent", "version", "asks"),
    [
        ((0, 1), (0, 1), False),
        ((0, 1), (0, 2), True),
        ((0, 0), (0, 0), False),
        ((0, 2), (0, 0), True),
        ((1, 1), (0, 0), True),
        ((1, 0), (1, 0), True),
        (None, (0, 0), False),
        (None, (0, -1), False),
        (None, (0, 1), True),
        (None, (1, 0), True),
    ],
)
async def test_a_connect_asks_redis_unless_the_copy_is_as_new_as_what_it_read(
    asked: Asked, sent: tuple[int, int] | None, version: tuple[int, int], asks: bool
) -> None:
    """The epoch and the number of changes of the last message and of what a connect has read, both
    relative to the copy."""
    await asked.revocations.sync()
    own = asked.revocations._version
    assert own is not None

    def position(epoch: int, changes: int) -> Position:
        return Position(f"{own.epoch}x" if epoch else own.epoch, own.offset + changes)

    if sent is not None:
        at = position(*sent)
        asked.revocations.on_message(f"{at.epoch}\n{at.offset}\n1.5 s:another".encode())
        assert asked.revocations.is_revoked(replace(ALICE, session_id="another"))
    assert await asked.by_a_connect(position(*version)) is asks


async def test_a_connect_that_is_ahead_of_the_copy_makes_the_instance_compare_it(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await start(), await start(pubsub_probe_seconds=60)  # compares rarely
    await until_in_sync(a, b)
    await revoke_unheard(a, b, monkeypatch)
    assert not await b.revocations.is_revoked_at(OTHER_SESSION, await version(a))
    await until(lambda: b.revocations.is_revoked(ALICE))


async def test_a_failed_comparison_is_repeated_soon_and_a_successful_one_is_not(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bff.cluster.revocations._RETRY_SECONDS", 0.01)
    a = await start(pubsub_probe_seconds=60)
    await until_in_sync(a)
    comparisons = 0

    async def fail_twice() -> None:
        nonlocal comparisons
        comparisons += 1
        if comparisons < 3:
            raise ConnectionError

    monkeypatch.setattr(a.revocations, "sync", fail_twice)
    a.revocations.on_stalled()
    a.revocations.on_subscribed()
    await until(lambda: comparisons == 3)
    for _ in range(20):
        await asyncio.sleep(0)
    assert comparisons == 3


async def test_the_later_of_two_times_counts_when_copy_and_redis_differ(
    redis: RedisClient, settings: Settings
) -> None:
    """Redis has come back with older data."""
    own, key, now = ClusterMember(redis, settings), Keys(settings.prefix).revocations, time.time()
    closed: list[str] = []
    own.revocations.on_revoked = lambda new: closed.extend(one.name for one in new)
    for name in ("alice", "bob"):
        await own.revocations.revoke_user(name, now - 100)
    assert closed == ["alice", "bob"], "at once, before its own message comes back"
    await redis.delete(Keys(settings.prefix).all.meta)
    await redis.zadd(key, {"u:alice": now - 200, "u:bob": now - 50})
    await own.revocations.sync()
    assert await redis.zrange(key, 0, -1, withscores=True) == [
        (b"u:alice", now - 100),
        (b"u:bob", now - 50),
    ]
    assert closed == ["alice", "bob", "bob"]


async def test_instances_write_what_redis_has_lost(
    redis: RedisClient,
    settings: Settings,
    start: StartInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bff.cluster.revocations._BATCH", 2)
    a, b = await start(), await start()
    for name in ("s-4", "s-3", "s-2", "s-1"):
        await a.revocations.revoke_session(name)
    await a.revocations.revoke_user("bob")
    await until(lambda: b.revocations.is_revoked(ALICE))
    key = Keys(settings.prefix).revocations
    before = await redis.zrange(key, 0, -1, withscores=True)
    assert len(before) == 5
    await until_in_sync(a, b)
    await redis.delete(key, Keys(settings.prefix).all.meta)
    for instance in (a, b):
        await instance.revocations.sync()
    assert await redis.zrange(key, 0, -1, withscores=True) == before
    late = await start()
    await until_in_sync(late)
    assert late.revocations.is_revoked(ALICE)


async def test_a_lost_key_is_noticed_although_the_number_of_changes_is_still_there(
    redis: RedisClient, settings: Settings, start: StartInstance
) -> None:
    a = await start()
    await a.revocations.revoke_session("s-1")
    await a.revocations.sync()
    key = Keys(settings.prefix).revocations
    await redis.delete(key)
    await a.revocations.sync()
    assert await redis.zcard(key) == 1


async def test_a_repeated_revocation_is_published_once(start: StartInstance) -> None:
    a, b = await start(), await start()
    await until_in_sync(a, b)
    first = await version(a)
    until_then = time.time()
    for _ in range(3):
        await a.revocations.revoke_user("alice", until_then)
    assert (await version(b)).offset == first.offset + 1


async def test_a_revocation_is_kept_as_long_as_a_token_can_live(
    redis: RedisClient, settings: Settings, start: StartInstance
) -> None:
    a = await start(pubsub_probe_seconds=60)  # compares when this test does
    await until_in_sync(a)
    now, keep = time.time(), settings.revocation_seconds
    await a.revocations.revoke_user("old", now - keep - 1)
    await a.revocations.revoke_user("expiring", now - keep + 50)
    await a.revocations.revoke_user("young", now - keep + 100)
    await a.revocations.sync()
    assert not a.revocations.is_revoked(replace(ALICE, user_id="old", issued_at=0))
    key = Keys(settings.prefix).revocations
    await redis.zrem(key, "u:expiring")  # by a clock that is ahead
    await a.revocations.sync()
    for user_id in ("expiring", "young"):
        assert a.revocations.is_revoked(replace(ALICE, user_id=user_id, issued_at=0))
    assert await redis.zrange(key, 0, -1) == [b"u:young"]
    assert 0 < await redis.ttl(key) <= keep


async def test_what_is_no_id_is_refused(start: StartInstance) -> None:
    a = await start()
    for bad in ("", "a\nb", "x" * 129):
        for revoke in (
            a.revocations.revoke_session,
            a.revocations.revoke_token,
            a.revocations.revoke_user,
        ):
            with pytest.raises(Problem):
                await revoke(bad)


async def test_sessions_end_together_with_their_revocation(start: StartInstance) -> None:
    ended: list[tuple[str, str]] = []

    class Sessions:
        async def end_session(self, sid: str) -> None:
            ended.append(("session", sid))

        async def end_provider_session(self, provider_sid: str) -> list[str]:
            ended.append(("provider", provider_sid))
            return ["own-1", "own-2"]

        async def end_user(self, user_id: str, before: float) -> list[str]:
            ended.append(("user", user_id))
            return []

    a = await start()
    a.revocations.sessions = Sessions()
    await a.revocations.revoke_provider_session("p-1")
    assert sorted(ended) == [
        ("provider", "p-1"),
        ("session", "own-1"),
        ("session", "own-2"),
        ("session", "p-1"),
    ]
    assert a.revocations.is_revoked(replace(ALICE, session_id="own-2"))
    assert await a.revocations.is_session_revoked("p-1")
    assert not await a.revocations.is_session_revoked("p-2")
    await a.messenger.close_session("own-3")
    assert ended[-1] == ("session", "own-3")
    await a.revocations.revoke_user("alice")
    assert ended[-1] == ("user", "alice")


def test_the_list_keeps_the_latest_time_of_a_name() -> None:
    known = RevocationList()
    late, early = (
        Revocation(RevocationKind.USER, "alice", 20),
        Revocation(RevocationKind.USER, "alice", 10),
    )
    assert known.add([late]) == [late]
    assert known.add([early]) == []
    assert known.is_revoked(replace(ALICE, issued_at=15))
    assert not known.is_revoked(replace(ALICE, issued_at=21))
    assert known.since(20) == [late]
    known.remove_before(21)
    assert len(known) == 0


async def test_a_redis_that_does_not_answer_delays_few_requests(
    start: StartInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await start()
    asked: list[Caller] = []

    async def ask(caller: Caller) -> bool:
        asked.append(caller)
        raise ConnectionError

    a.revocations.on_stalled()
    monkeypatch.setattr(a.revocations, "is_revoked_in_redis", ask)
    for _ in range(10):
        await a.revocations.check(ALICE)
    assert len(asked) == 1
