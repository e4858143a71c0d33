"""The refresh of an access token: by this instance, by another one, and when something fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from bff.auth.caller import Caller
from bff.auth.oidc import access_tokens
from bff.auth.oidc.access_tokens import AccessTokens
from bff.auth.oidc.errors import AnswerLost, GrantRefused
from bff.auth.oidc.provider import IdentityProvider
from bff.auth.revocations import SessionEnded
from bff.auth.session_key import SessionKey
from bff.auth.session_tokens import Tokens
from bff.auth.sessions import SessionStore, SignIn
from bff.errors import Code, Problem
from bff.redis.client import RedisClient
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings
from bff.testing import until


def tokens(
    *, refresh_in: float | None, ends_in: float | None, refresh_token: str | None = "refresh-1"
) -> Tokens:
    """The first tokens of a session; times in seconds from now."""
    now = time.time()
    return Tokens(
        access_token="access-1",
        expires_at=None if ends_in is None else now + ends_in,
        refresh_token=refresh_token,
        id_token="id-1",
        refresh_at=None if refresh_in is None else now + refresh_in,
    )


LATE: dict[str, Any] = {"refresh_in": -1.0, "ends_in": 600.0}
EXPIRED: dict[str, Any] = {"refresh_in": -60.0, "ends_in": -30.0}
ALONE: dict[str, Any] = {"refresh_token": None}


class Provider:
    """Answers each refresh with the next tokens, or as the test says."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: list[dict[str, Any] | Exception] = []
        self.open = asyncio.Event()
        self.open.set()

    async def refresh(self, refresh_token: str) -> dict[str, Any]:
        self.asked.append(refresh_token)
        number = len(self.asked) + 1
        await self.open.wait()
        answer = self.answers.pop(0) if self.answers else self.usual(number)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @staticmethod
    def usual(number: int) -> dict[str, Any]:
        names = {"access_token": f"access-{number}", "refresh_token": f"refresh-{number}"}
        return {**names, "expires_in": 300}


class Instance:
    """One of the instances that share the sessions in Redis."""

    def __init__(self, redis: RedisClient, settings: Settings, provider: Provider) -> None:
        self.pipeline = AutoPipeline(redis)
        self.store = SessionStore(self.pipeline, settings)
        self.ended: list[Caller] = []
        self.access_tokens = AccessTokens(
            self.pipeline, settings, self.store, cast(IdentityProvider, provider), self._end
        )

    async def _end(self, caller: Caller) -> None:
        self.ended.append(caller)

    async def signed_in(self, given: Tokens) -> Caller:
        sign_in = SignIn("alice", "Alice", frozenset(), given, None, "192.0.2.7", "test")
        caller = await self.store.load((await self.store.create(sign_in))[0])
        assert caller is not None
        return caller

    async def stored(self, caller: Caller) -> Tokens | None:
        return await self.store.tokens(key_of(caller))


def key_of(caller: Caller) -> SessionKey:
    assert caller.session is not None
    return caller.session


@pytest.fixture
def idp() -> Provider:
    return Provider()


@pytest.fixture
def start(redis: RedisClient, settings: Settings, idp: Provider) -> Callable[[], Instance]:
    return lambda: Instance(redis, settings, idp)


@pytest.fixture
def instance(start: Callable[[], Instance]) -> Instance:
    return start()


def recorded(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the commands that the instance sends to Redis from now on."""
    submit, commands = instance.pipeline.submit, list[str]()

    def record(*args: Any, **options: Any) -> Any:
        commands.append(args[0])
        return submit(*args, **options)

    monkeypatch.setattr(instance.pipeline, "submit", record)
    return commands


async def problem_of(instance: Instance, caller: Caller) -> Problem:
    with pytest.raises(Problem) as caught:
        await instance.access_tokens.of(caller)
    return caught.value


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"refresh_in": 600, "ends_in": 900}, "access-1"),
        ({"refresh_in": None, "ends_in": None}, "access-1"),
        (LATE, "access-2"),
        (EXPIRED, "access-2"),
        (LATE | ALONE, "access-1"),
        ({"refresh_in": -1, "ends_in": None} | ALONE, "access-1"),
        (EXPIRED | ALONE, Code.UNAUTHENTICATED),
    ],
    ids=["fresh", "without time", "late", "expired", "late, alone", "no end", "expired, alone"],
)
async def test_an_access_token_is_given_refreshed_or_refused(
    instance: Instance,
    idp: Provider,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
    expected: str,
) -> None:
    caller = await instance.signed_in(tokens(**given))
    commands = recorded(instance, monkeypatch)
    if expected == Code.UNAUTHENTICATED:
        assert (await problem_of(instance, caller)).code is Code.UNAUTHENTICATED
    else:
        assert await instance.access_tokens.of(caller) == expected
    assert idp.asked == (["refresh-1"] if expected == "access-2" else [])
    if expected != "access-2":
        assert commands == ["HGET"], "one round trip"
    with_a_token = replace(caller, session=None)
    assert (await problem_of(instance, with_a_token)).code is Code.FORBIDDEN


async def test_each_refresh_uses_the_refresh_token_of_the_last_one(
    instance: Instance, idp: Provider, redis: RedisClient, settings: Settings
) -> None:
    caller = await instance.signed_in(tokens(**EXPIRED))
    for number in (2, 3):
        assert await instance.access_tokens.of(caller) == f"access-{number}"
        stored = await instance.stored(caller)
        assert stored is not None
        assert (stored.refresh_token, stored.id_token) == (f"refresh-{number}", "id-1")
        locks = [name async for name in redis.scan_iter(f"{settings.prefix}:*:refresh")]
        assert locks == [], "the next refresh need not wait"
        await instance.store.write_tokens(key_of(caller), replace(stored, refresh_at=0))
    assert idp.asked == ["refresh-1", "refresh-2"]


async def test_an_instance_waits_for_the_refresh_of_another(
    start: Callable[[], Instance], idp: Provider
) -> None:
    first, second = start(), start()
    caller = await first.signed_in(tokens(**EXPIRED))
    idp.open.clear()
    asking = [asyncio.create_task(first.access_tokens.of(caller))]
    await until(lambda: idp.asked != [])
    asking += [asyncio.create_task(one.access_tokens.of(caller)) for one in (second, second)]
    await until(lambda: second.access_tokens._refreshing != {})
    idp.open.set()
    assert await asyncio.gather(*asking) == ["access-2"] * 3
    assert idp.asked == ["refresh-1"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [(LATE, "access-1"), (EXPIRED, Code.SERVICE_UNAVAILABLE)],
    ids=["valid", "expired"],
)
async def test_a_refresh_that_another_instance_does_not_finish_is_not_waited_for(
    start: Callable[[], Instance],
    idp: Provider,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
    expected: str,
) -> None:
    monkeypatch.setattr(access_tokens, "_WAIT_SECONDS", 0.1)
    first, second = start(), start()
    caller = await first.signed_in(tokens(**given))
    idp.open.clear()
    asking = asyncio.create_task(first.access_tokens.of(caller))
    await until(lambda: idp.asked != [])
    commands = recorded(second, monkeypatch)
    if expected == Code.SERVICE_UNAVAILABLE:
        assert (await problem_of(second, caller)).code is Code.SERVICE_UNAVAILABLE
    else:
        assert await second.access_tokens.of(caller) == expected
    assert commands.count("SET") <= 3, "it asks Redis now and then"
    idp.open.set()
    assert await asking == "access-2", "it still has the lock"
    assert idp.asked == ["refresh-1"]


@pytest.mark.parametrize(
    ("answers", "asked", "expected"),
    [
        ([AnswerLost()], 2, "access-3"),
        ([AnswerLost(), AnswerLost()], 2, Code.SERVICE_UNAVAILABLE),
        ([{"token_type": "Bearer"}], 1, Code.SERVICE_UNAVAILABLE),
        ([Problem(Code.SERVICE_UNAVAILABLE)], 1, Code.SERVICE_UNAVAILABLE),
        ([AnswerLost(), GrantRefused()], 2, Code.UNAUTHENTICATED),
        ([GrantRefused()], 1, Code.UNAUTHENTICATED),
    ],
    ids=["lost", "lost twice", "no token", "away", "refused at last", "refused"],
)
async def test_only_a_refusal_of_the_provider_ends_the_session(
    instance: Instance, idp: Provider, answers: list[Any], asked: int, expected: str
) -> None:
    caller = await instance.signed_in(tokens(**EXPIRED))
    idp.answers = answers
    if expected == "access-3":
        assert await instance.access_tokens.of(caller) == expected
    else:
        problem = await problem_of(instance, caller)
        assert problem.code is Code(expected)
        assert isinstance(problem, SessionEnded) is (expected == Code.UNAUTHENTICATED)
    assert idp.asked == ["refresh-1"] * asked
    assert instance.ended == ([caller] if expected == Code.UNAUTHENTICATED else [])


async def test_new_tokens_are_stored_although_redis_is_away_for_a_moment(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The refresh token before them is used up."""
    pauses, now = (0.01, 0.02, 0.03), asyncio.get_running_loop().time
    monkeypatch.setattr(access_tokens, "_STORE_AGAIN_SECONDS", pauses)
    caller, write = await instance.signed_in(tokens(**EXPIRED)), instance.store.write_tokens
    failures = [ConnectionError("away") for _ in pauses]

    async def away(key: SessionKey, new: Tokens) -> bool:
        if failures:
            raise failures.pop()
        return await write(key, new)

    monkeypatch.setattr(instance.store, "write_tokens", away)
    began = now()
    assert await instance.access_tokens.of(caller) == "access-2"
    assert now() - began >= sum(pauses)
    stored = await instance.stored(caller)
    assert stored is not None
    assert stored.refresh_token == "refresh-2"


async def test_a_session_that_ends_during_its_refresh_has_no_access_token(
    instance: Instance, idp: Provider
) -> None:
    caller = await instance.signed_in(tokens(**LATE))
    idp.open.clear()
    asking = asyncio.create_task(instance.access_tokens.of(caller))
    await until(lambda: idp.asked != [])
    await instance.store.end_session(caller.session_id)
    idp.open.set()
    with pytest.raises(SessionEnded):
        await asking
    assert isinstance(await problem_of(instance, caller), SessionEnded)


async def test_a_stop_waits_for_the_refresh_that_runs_but_not_for_ever(
    instance: Instance, idp: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tokens would be lost otherwise."""
    caller = await instance.signed_in(tokens(**EXPIRED))
    await instance.access_tokens.stop()
    idp.open.clear()
    asking = asyncio.create_task(instance.access_tokens.of(caller))
    await until(lambda: idp.asked != [])
    stopping = asyncio.create_task(instance.access_tokens.stop())
    asyncio.get_running_loop().call_later(0.01, idp.open.set)
    await stopping
    assert await asking == "access-2"
    stored = await instance.stored(caller)
    assert stored is not None
    assert stored.access_token == "access-2"
    monkeypatch.setattr(access_tokens, "_STOP_SECONDS", 0.01)
    await instance.store.write_tokens(key_of(caller), replace(stored, refresh_at=0, expires_at=0))
    idp.open.clear()
    asking = asyncio.create_task(instance.access_tokens.of(caller))
    await until(lambda: idp.asked == ["refresh-1", "refresh-2"])
    await instance.access_tokens.stop()
    assert instance.access_tokens._refreshing == {}
    with pytest.raises(asyncio.CancelledError):
        await asking
