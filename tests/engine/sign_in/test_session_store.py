"""The sessions in Redis: who can read them, how long they live, and what ends them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from bff.auth import sessions
from bff.auth.session_key import SessionKey
from bff.auth.session_tokens import Tokens
from bff.auth.sessions import SessionStore, SignIn
from bff.redis.client import RedisClient
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings

TOKENS = Tokens("access", 2e9, "refresh", "id", 1e9)
ALICE = SignIn(
    user_id="alice",
    username="Alice A.",
    scopes=frozenset({"admin", "orders"}),
    tokens=TOKENS,
    provider_sid="p-1",
    address="192.0.2.7",
    user_agent="x" * 300,
)


class Clock:
    """The time of the store; Redis has its own."""

    def __init__(self) -> None:
        self.now = time.time()

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(sessions, "time", SimpleNamespace(time=clock.time))
    return clock


@pytest.fixture
def store(redis: RedisClient, settings: Settings) -> SessionStore:
    return SessionStore(AutoPipeline(redis), settings)


async def create(store: SessionStore, **changes: Any) -> SessionKey:
    return (await store.create(replace(ALICE, **changes)))[0]


async def sids(store: SessionStore, user_id: str = "alice") -> list[str]:
    return [details.sid for details in await store.of_user(user_id)]


async def test_only_the_whole_key_reads_a_session(
    store: SessionStore, settings: Settings, clock: Clock
) -> None:
    key = await create(store)
    caller, end = await store.load(key), int(clock.now) + settings.max_session_seconds
    assert caller is not None
    assert (caller.user_id, caller.username) == ("alice", "Alice A.")
    assert (caller.scopes, caller.session_id) == (ALICE.scopes, key.sid)
    assert (caller.issued_at, caller.expires_at, caller.session) == (clock.now, end, key)
    assert await store.tokens(key) == TOKENS
    for other in (replace(key, secret=SessionKey.new().secret), SessionKey.new()):
        assert await store.load(other) is None
        assert await store.tokens(other) is None


async def test_a_user_has_a_list_of_the_newest_sessions(
    redis: RedisClient, settings: Settings, clock: Clock
) -> None:
    changed = settings.model_copy(update={"max_sessions_per_user": 2})
    store, keys, superfluous = SessionStore(AutoPipeline(redis), changed), [], []
    began = clock.now
    for clock.now in (began, began + 1, began + 2):
        key, beyond = await store.create(ALICE)
        keys.append(key.sid)
        superfluous.append(beyond)
    assert superfluous == [[], [], keys[:1]], "the calling code ends it"
    assert (await store.create(replace(ALICE, user_id="bob")))[1] == []
    listed = await store.of_user("alice")
    assert [details.sid for details in listed] == [keys[2], keys[1]]
    assert (listed[0].created_at, listed[0].address) == (clock.now, "192.0.2.7")
    assert listed[0].user_agent == "x" * 200, "no more of it is stored"


async def test_a_session_that_lives_does_not_end_for_those_that_have_ended(
    redis: RedisClient, settings: Settings, clock: Clock
) -> None:
    changed = settings.model_copy(update={"max_sessions_per_user": 2})
    store, began = SessionStore(AutoPipeline(redis), changed), clock.now
    oldest = await create(store)
    for clock.now in (began + 1, began + 2):
        idle, superfluous = await store.create(ALICE)
        assert superfluous == []
        await redis.delete(f"{settings.prefix}:session:{idle.sid}")  # as if it had expired
    assert await sids(store) == [oldest.sid]


async def test_the_provider_ends_a_session_after_which_many_others_have_begun_and_ended(
    redis: RedisClient, settings: Settings, clock: Clock
) -> None:
    """The browser keeps its session at the provider, and each new sign-in ends the previous one."""
    changed = settings.model_copy(update={"max_sessions_per_user": 2})
    store, began = SessionStore(AutoPipeline(redis), changed), clock.now
    oldest = await create(store)
    for clock.now in (began + 1, began + 2, began + 3):
        await store.end_session((await create(store)).sid)
    assert await sids(store) == [oldest.sid]
    assert oldest.sid in await store.end_provider_session("p-1")
    assert await store.alive([oldest.sid]) == [False]


async def test_a_session_ends_at_its_end_although_redis_still_has_it(
    store: SessionStore, settings: Settings, clock: Clock
) -> None:
    key = await create(store)
    began, end = clock.now, int(clock.now) + settings.max_session_seconds
    for clock.now, is_alive in ((began, True), (end - 0.5, True), (end, False), (end + 1, False)):
        assert (await store.load(key) is not None) is is_alive
        assert await store.alive([key.sid]) == [is_alive]
        assert await sids(store) == ([key.sid] if is_alive else [])


async def test_an_idle_session_ends_alone(
    store: SessionStore, redis: RedisClient, settings: Settings
) -> None:
    idle, other = await create(store), await create(store)
    await redis.delete(f"{settings.prefix}:session:{idle.sid}")  # as if it had expired
    assert await store.load(idle) is None
    assert await store.tokens(idle) is None
    assert await store.alive([idle.sid, other.sid]) == [False, True]
    assert await store.touch([idle.sid, other.sid]) == [False, True]
    assert await sids(store) == [other.sid]
    assert await store.write_tokens(idle, TOKENS) is False
    assert await store.tokens(idle) is None, "nothing brings it back"
    await store.end_session(idle.sid)


async def test_a_use_begins_the_idle_time_again(redis: RedisClient, settings: Settings) -> None:
    """Redis keeps a session for the time until the next touch too."""
    changed = settings.model_copy(update={"session_idle_seconds": 402})
    store = SessionStore(AutoPipeline(redis), changed)
    assert store.touch_seconds == 100.5
    key = await create(store)
    name = f"{settings.prefix}:session:{key.sid}"

    async def is_kept() -> bool:
        return 402 + 101 - 60 < await redis.ttl(name) <= 402 + 101

    assert await is_kept()
    for use in (store.load(key), store.touch([key.sid])):
        await redis.expire(name, 50)
        await use
        assert await is_kept()
    await redis.expire(name, 50)
    await store.write_tokens(key, TOKENS)
    await store.tokens(key)
    assert await redis.ttl(name) <= 50, "a refresh is no use by the user"


async def test_an_ended_session_leaves_nothing_unless_redis_failed(
    store: SessionStore, redis: RedisClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await create(store, provider_sid=None)
    for _ in range(2):
        await store.end_session(key.sid)
        assert [one async for one in redis.scan_iter(f"{settings.prefix}:*")] == []
    key = await create(store)
    submit = store._pipeline.submit

    def away(*args: Any, **options: Any) -> asyncio.Future[Any]:
        """In a Redis Cluster another node than that of the list may be away."""
        if args[0] != "DEL":
            return submit(*args, **options)
        failed = asyncio.get_running_loop().create_future()
        failed.set_exception(ConnectionError("away"))
        return failed

    monkeypatch.setattr(store._pipeline, "submit", away)
    with pytest.raises(ConnectionError):
        await store.end_session(key.sid)


async def test_the_sessions_of_a_user_up_to_a_time_or_of_a_session_of_the_provider_end(
    store: SessionStore, clock: Clock
) -> None:
    began, keys = clock.now, []
    for clock.now in (began, began + 1, began + 2):
        keys.append(await create(store))
    bobs = await create(store, user_id="bob")
    first, second, third = (key.sid for key in keys)
    assert sorted(await store.end_user("alice", began + 1)) == sorted([first, second])
    assert await store.alive([first, second, third, bobs.sid]) == [False, False, True, True]
    assert await sids(store) == [third]
    ended = [(await create(store, provider_sid="p-3")).sid for _ in range(3)]
    others = [(await create(store, provider_sid=sid)).sid for sid in ("p-2", None, None)]
    assert sorted(await store.end_provider_session("p-3")) == sorted(ended)
    assert await store.alive(ended + others) == [False] * 3 + [True] * 3


async def test_the_url_of_a_sign_out_is_taken_once_and_by_its_ticket_only(
    store: SessionStore, redis: RedisClient, settings: Settings
) -> None:
    ticket = await store.keep_url("https://id.example/logout?id_token_hint=secret")
    (name,) = [one async for one in redis.scan_iter(f"{settings.prefix}:*")]
    assert 0 < await redis.ttl(name) <= 60
    assert b"id_token_hint" not in (await redis.get(name) or b"")
    for other in ("", "x", SessionKey.new().cookie):
        assert await store.take_url(other) is None
    assert await store.take_url(ticket) == "https://id.example/logout?id_token_hint=secret"
    assert await store.take_url(ticket) is None
    kept = SessionKey.parse(await store.keep_url("/"))
    assert kept is not None
    assert await store.take_url(replace(kept, secret=SessionKey.new().secret).cookie) is None
