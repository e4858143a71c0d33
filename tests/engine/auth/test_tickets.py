"""A ticket can be used once, for a short time, by its origin."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest
from bff.auth import tickets as tickets_module
from bff.auth.caller import Caller
from bff.auth.session_key import SessionKey
from bff.auth.tickets import Tickets
from bff.errors import Code, Problem
from bff.redis.client import RedisClient, create_client
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings
from bff.testing import until

ORIGIN = "http://localhost:8000"


async def assert_refused(tickets: Tickets, ticket: str, origin: str | None = ORIGIN) -> None:
    with pytest.raises(Problem) as caught:
        await tickets.redeem(ticket, origin)
    assert caught.value.code is Code.UNAUTHENTICATED


async def test_a_ticket_returns_its_caller(tickets: Tickets, alice: Caller) -> None:
    """With the key of the session, by which the access token is found."""
    for key in (None, SessionKey.new()):
        ticket = await tickets.issue(replace(alice, session=key), ORIGIN)
        caller = await tickets.redeem(ticket, ORIGIN)
        assert (caller, caller.session) == (alice, key)


async def test_a_field_that_only_a_newer_version_stores_is_ignored(
    tickets: Tickets, alice: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = tickets_module._fields
    monkeypatch.setattr(tickets_module, "_fields", lambda caller: {**fields(caller), "newer": 1})
    assert await tickets.redeem(await tickets.issue(alice, ORIGIN), ORIGIN) == alice


async def test_a_ticket_can_be_used_once(tickets: Tickets, alice: Caller) -> None:
    ticket = await tickets.issue(alice, ORIGIN)
    await tickets.redeem(ticket, ORIGIN)
    await assert_refused(tickets, ticket)


async def test_concurrent_uses_of_a_ticket_succeed_once(tickets: Tickets, alice: Caller) -> None:
    ticket = await tickets.issue(alice, ORIGIN)
    results = await asyncio.gather(
        *(tickets.redeem(ticket, ORIGIN) for _ in range(20)), return_exceptions=True
    )
    assert sum(result == alice for result in results) == 1


@pytest.mark.parametrize("origin", ["http://evil", "null", "", None, "http://localhost:8001"])
async def test_another_origin_is_refused_and_the_ticket_is_used_up(
    tickets: Tickets, alice: Caller, origin: str | None
) -> None:
    ticket = await tickets.issue(alice, ORIGIN)
    await assert_refused(tickets, ticket, origin)
    await assert_refused(tickets, ticket)


async def test_a_ticket_issued_without_an_origin_is_valid_for_every_origin(
    tickets: Tickets, alice: Caller
) -> None:
    assert await tickets.redeem(await tickets.issue(alice, None), ORIGIN) == alice


async def test_a_ticket_expires(redis: RedisClient, settings: Settings, alice: Caller) -> None:
    tickets = Tickets(AutoPipeline(redis), settings.model_copy(update={"ticket_seconds": 1}))
    ticket = await tickets.issue(alice, ORIGIN)

    async def is_gone() -> bool:
        return not [key async for key in redis.scan_iter(f"{settings.prefix}:ticket:*")]

    await until(is_gone)
    await assert_refused(tickets, ticket)


async def test_a_ticket_of_an_expired_token_is_refused(
    tickets: Tickets, redis: RedisClient, settings: Settings, alice: Caller
) -> None:
    expired = replace(alice, expires_at=int(time.time()) - 60)
    await assert_refused(tickets, await tickets.issue(expired, ORIGIN))
    lenient = settings.model_copy(update={"jwt_leeway_seconds": 300})
    ticket = await tickets.issue(expired, ORIGIN)
    assert await Tickets(AutoPipeline(redis), lenient).redeem(ticket, ORIGIN) == expired


@pytest.mark.parametrize(
    "ticket", ["x", "ä", "x" * 5_000, "\ud800"], ids=lambda text: ascii(text)[:9]
)
async def test_unknown_tickets_are_refused(
    tickets: Tickets, settings: Settings, ticket: str
) -> None:
    await assert_refused(tickets, ticket)
    if ticket != "x":  # it cannot be one: Redis is not asked
        away = create_client("redis://127.0.0.1:1")
        await assert_refused(Tickets(AutoPipeline(away), settings), ticket)
        await away.aclose()


async def test_a_user_gets_a_bounded_number_of_tickets(
    redis: RedisClient, settings: Settings, alice: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    """The refused ones leave nothing and one line in the log, other users are not affected, and
    the limit ends in time."""
    changed = {"max_tickets_per_user": 3, "ticket_seconds": 3}
    tickets = Tickets(AutoPipeline(redis), settings.model_copy(update=changed))
    results = await asyncio.gather(
        *(tickets.issue(alice, ORIGIN) for _ in range(50)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, Problem)]
    assert len(refused) == 47
    assert [one.message for one in caplog.records].count("tickets refused: too many") == 1
    assert {one.code for one in refused} == {Code.RATE_LIMITED}
    assert {one.retry_after_seconds for one in refused} <= {1, 2, 3}
    await tickets.issue(replace(alice, user_id="bob"), ORIGIN)
    assert len([key async for key in redis.scan_iter(f"{settings.prefix}:*")]) <= 3 + 1 + 2

    async def is_allowed_again() -> bool:
        try:
            return bool(await tickets.issue(alice, ORIGIN))
        except Problem:
            return False

    await until(is_allowed_again)


async def test_the_first_refused_ticket_is_logged_and_says_how_long_to_wait(
    redis: RedisClient, settings: Settings, alice: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    changed = {"max_tickets_per_user": 1, "ticket_seconds": 1}
    tickets = Tickets(AutoPipeline(redis), settings.model_copy(update=changed))
    with pytest.raises(Problem) as caught:
        await issue_until_refused(tickets, alice)
    assert caught.value.retry_after_seconds == 1
    assert caplog.messages == ["tickets refused: too many"]


async def issue_until_refused(tickets: Tickets, caller: Caller) -> None:
    while True:
        await tickets.issue(caller, ORIGIN)


async def test_redis_stores_neither_the_ticket_nor_the_caller(
    tickets: Tickets, redis: RedisClient, settings: Settings, alice: Caller
) -> None:
    ticket = await tickets.issue(alice, ORIGIN)
    (key,) = [key async for key in redis.scan_iter(f"{settings.prefix}:ticket:*")]
    (count,) = [key async for key in redis.scan_iter(f"{settings.prefix}:tickets:*")]
    assert 0 < await redis.ttl(count) <= settings.ticket_seconds
    assert alice.user_id.encode() not in count
    kept = await redis.get(key)
    assert isinstance(kept, bytes)
    assert ticket.encode() not in key
    for secret in (ticket, alice.username, alice.user_id):
        assert secret.encode() not in kept
    assert 0 < await redis.ttl(key) <= settings.ticket_seconds


async def test_a_forged_entry_is_refused(
    tickets: Tickets, redis: RedisClient, settings: Settings, alice: Caller
) -> None:
    ticket = await tickets.issue(alice, ORIGIN)
    (key,) = [key async for key in redis.scan_iter(f"{settings.prefix}:ticket:*")]
    await redis.set(key, b'[null, {"user_id": "root"}]')
    await assert_refused(tickets, ticket)
