"""How long sessions live, and what ends with them, on every instance."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import pytest
from bff.auth import sessions
from bff.auth.oidc import login_flow
from bff.connections.close_codes import CloseCode
from bff.errors import Code, Problem
from bff.realtime.session_check import SessionCheck
from bff.testing import RunningBff, until

from tests.engine.sign_in.conftest import Embedded, Page, Provider, Start, audit_of

Pages = Callable[[RunningBff], Page]


@pytest.fixture
def provider() -> Provider:
    return Embedded()


def key_of(page: Page) -> str:
    return f"{page.bff.settings.prefix}:session:{page.key.sid}"


async def ttl(page: Page) -> int:
    seconds: int = await page.bff.engine.cluster.pipeline.submit("TTL", key_of(page))
    return seconds


async def almost_idle(page: Page) -> None:
    await page.bff.engine.cluster.pipeline.submit("EXPIRE", key_of(page), 100)


def check_of(bff: RunningBff) -> SessionCheck:
    engine = bff.engine
    return SessionCheck(engine.handlers, engine.sessions)


async def test_a_request_begins_the_idle_time_again(page: Page) -> None:
    await page.sign_in()
    await almost_idle(page)
    await page.me()
    assert await ttl(page) > 1000


async def test_frames_late_in_the_idle_time_are_in_time(page: Page) -> None:
    """The key lives on until the frames of the whole idle time are known."""
    await page.sign_in()
    sessions, idle = page.bff.engine.sessions, page.bff.settings.session_idle_seconds
    longest = idle + math.ceil(sessions.touch_seconds)
    assert longest - 60 < await ttl(page) <= longest
    await almost_idle(page)
    await sessions.touch([page.key.sid])
    assert longest - 60 < await ttl(page) <= longest


async def test_frames_are_activity_and_pings_are_not(page: Page) -> None:
    await page.sign_in()
    check = check_of(page.bff)
    async with page.socket() as browser:
        await browser.receive()
        await almost_idle(page)
        await browser.ask({"type": "ping", "payload": {"trace_id": "p"}})
        await check.check()
        assert await ttl(page) <= 100
        await browser.request("echo", "say", text="hi")
        await check.check()
        assert await ttl(page) > 1000
        await almost_idle(page)
        await check.check()
        assert await ttl(page) <= 100


async def test_the_socket_of_an_idle_session_is_closed(page: Page) -> None:
    await page.sign_in()
    async with page.socket() as browser:
        await browser.receive()
        await page.bff.engine.cluster.pipeline.submit("DEL", key_of(page))  # as if it had expired
        await check_of(page.bff).check()
        assert await browser.closed() == CloseCode.SESSION_ENDED
    assert await page.me() is None


async def test_a_session_ends_however_active_it_is(start: Start, pages: Pages) -> None:
    async with start(max_session_seconds=5) as bff:
        page = pages(bff)
        await page.sign_in()
        began = time.monotonic()
        async with page.socket() as browser:
            await browser.receive()
            assert await browser.closed() == CloseCode.SESSION_ENDED
        assert time.monotonic() - began < 15
        assert await page.me() is None


async def test_the_oldest_session_of_too_many_ends(start: Start, pages: Pages) -> None:
    async with start(max_sessions_per_user=2) as bff:
        first, second, third = (pages(bff) for _ in range(3))
        await first.sign_in("ann")
        async with first.socket() as browser:
            await browser.receive()
            await second.sign_in("ann")
            assert await first.me() is not None
            await third.sign_in("ann")
            assert await browser.closed() == CloseCode.SESSION_ENDED
        assert [await page.me() is not None for page in (first, second, third)] == [
            False,
            True,
            True,
        ]


async def test_a_socket_of_a_session_takes_no_token(page: Page) -> None:
    await page.sign_in("ann")
    async with page.socket() as browser:
        await browser.receive()
        frame = {"token": page.bff.token("ann"), "trace_id": "a"}
        answer = await browser.ask({"type": "authenticate", "payload": frame})
        assert answer["error"]["code"] == "forbidden"


async def test_a_ticket_of_a_session_opens_a_socket_of_the_session(page: Page) -> None:
    await page.sign_in("ann")
    ticket = (await page.fetch("POST", "/auth/ticket")).json()["ticket"]
    other = (await page.fetch("POST", "/auth/ticket")).json()["ticket"]
    origin = {"Origin": page.origin}
    async with page.bff.handshake(f"?ticket={ticket}", origin) as browser:
        await browser.receive()
        assert (await page.fetch("POST", "/auth/logout")).status_code == 200
        assert await browser.closed() == CloseCode.SESSION_ENDED
    async with page.bff.handshake(f"?ticket={other}", origin) as browser:
        assert await browser.closed() in (4500, CloseCode.SESSION_ENDED)


async def test_an_app_gives_scopes_and_refuses_users(start: Start, pages: Pages) -> None:
    async def authorize(claims: Mapping[str, Any], scopes: frozenset[str]) -> set[str]:
        if claims["sub"] == "mallory":
            raise Problem(Code.FORBIDDEN, "Ask the office for access")
        return {*scopes, "extra"}

    async with start(authorize=authorize) as bff:
        page = pages(bff)
        await page.sign_in("ann")
        me = await page.me()
        assert me is not None
        assert me["scopes"] == ["extra", "orders"]
        other = pages(bff)
        callback = await other.approve(await other.begin(), "mallory")
        response = await other.http.get(callback)
        assert response.status_code == 403
        assert "Ask the office for access" in response.text
        (entry,) = await audit_of(bff, outcome="refused")
        assert (entry.action, entry.details) == ("sign_in", {"reason": "by the app"})
        assert await other.me() is None


async def test_a_sign_out_on_one_instance_closes_the_sockets_on_another(
    start: Start, pages: Pages, real_redis: str
) -> None:
    """Exactly those of the session: the user's other session is untouched."""
    async with start() as a, start() as b:
        laptop, phone = pages(a), pages(a)
        await laptop.sign_in("ann")
        await phone.sign_in("ann")
        async with laptop.socket() as ends, laptop.socket() as ends_too, phone.socket() as stays:
            for browser in (ends, ends_too, stays):
                await browser.receive()
            cookie = laptop.cookie
            elsewhere = pages(b)
            elsewhere.cookie = cookie
            assert (await elsewhere.fetch("POST", "/auth/logout")).status_code == 200
            began = time.monotonic()
            assert [await ends.closed(), await ends_too.closed()] == [CloseCode.SESSION_ENDED] * 2
            assert time.monotonic() - began < 1
            assert (await stays.request("echo", "say", text="hi"))["result"]["text"] == "hi"
        assert await laptop.me() is None
        assert await phone.me() is not None


async def test_a_connect_with_a_cookie_costs_one_round_trip(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All commands are submitted before the first reply."""
    await page.sign_in()
    pipeline, events = page.bff.engine.cluster.pipeline, list[str]()
    submit = pipeline.submit

    def record(*args: Any, **options: Any) -> Any:
        reply = submit(*args, **options)
        if page.key.sid in str(args[1]):
            events.append("sent")
            reply.add_done_callback(lambda _: events.append("reply"))
        return reply

    monkeypatch.setattr(pipeline, "submit", record)
    async with page.socket() as browser:
        await browser.receive()
    assert events == ["sent", "sent", "reply", "reply"]


async def test_a_connect_with_a_token_costs_one_round_trip_and_no_question_about_revocations(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis is sent the entry of the index, and nothing else that names user, session or token."""
    revocations = bff.engine.cluster.revocations
    await until(lambda: revocations._version is not None)  # compared with Redis after the start
    pipeline, events = bff.engine.cluster.pipeline, list[str]()
    submit = pipeline.submit

    def record(*args: Any, **options: Any) -> Any:
        reply = submit(*args, **options)
        if "counted" in str(args):
            events.append(str(args[0]))
            reply.add_done_callback(lambda _: events.append("reply"))
        return reply

    monkeypatch.setattr(pipeline, "submit", record)
    token = bff.token("counted", session_id="counted-1", token_id="counted-2")
    async with bff.browser(token=token):
        assert events == ["SADD", "EVALSHA", "reply", "reply"]


async def test_new_secrets_end_no_session(start: Start, pages: Pages, real_redis: str) -> None:
    async with start() as bff:
        old = bff.settings.jwt_secret
        assert old is not None
        page = pages(bff)
        await page.sign_in()
        headers = {"Authorization": f"Bearer {bff.token('with-a-token')}"}
        changed = {
            "jwt_secret": secrets.token_hex(32),
            "jwt_previous_secret": old.get_secret_value(),
            "mesh_token_secret": secrets.token_hex(32),
        }
        async with start(**changed) as after:
            page.use(after)
            assert await page.me() is not None
            async with page.socket() as socket:
                assert (await socket.receive())["payload"]["topic"] == "hello"
            answer = await page.http.get("/auth/me", headers=headers)
            assert answer.json()["user_id"] == "with-a-token"


async def test_without_a_provider_there_is_no_sign_in(bff: RunningBff) -> None:
    async with bff.http("ann", ["orders"]) as http:
        assert (await http.get("/auth/login")).status_code == 404
        assert (await http.get("/auth/callback?state=x")).status_code == 404
        assert (await http.post("/auth/logout")).status_code == 404
        me = (await http.get("/auth/me")).json()
        assert (me["user_id"], me["scopes"]) == ("ann", ["orders"])
        cookie = {"Cookie": "bff=anything", "Authorization": ""}
        assert (await http.get("/auth/me", headers=cookie)).status_code == 401


async def test_fields_that_only_a_newer_version_stores_are_ignored(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During a rolling update two versions read what the other has stored."""
    monkeypatch.setattr(login_flow, "asdict", lambda flow: {**asdict(flow), "newer": 1})
    monkeypatch.setattr(sessions, "asdict", lambda stored: {**asdict(stored), "newer": 1})
    await page.sign_in("ann")
    store, key = page.bff.engine.sessions, page.key
    caller, tokens = await store.load(key), await store.tokens(key)
    assert caller is not None
    assert tokens is not None
    assert caller.user_id == "ann"
    assert [one.sid for one in await store.of_user("ann")] == [key.sid]


@pytest.mark.parametrize(("idle", "seconds"), [(400, 100), (1200, 300), (86_400, 300)])
async def test_activity_is_written_in_a_quarter_of_the_idle_time(
    signing_bff: RunningBff, idle: int, seconds: float
) -> None:
    engine = signing_bff.engine
    settings = signing_bff.settings.model_copy(update={"session_idle_seconds": idle})
    store = sessions.SessionStore(engine.cluster.pipeline, settings)
    assert store.touch_seconds == seconds


async def test_activity_that_redis_did_not_get_counts_for_the_next_check(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    await page.sign_in()
    check = check_of(page.bff)

    async def away(_: object) -> None:
        raise ConnectionError

    async with page.socket() as browser:
        await browser.receive()
        await browser.request("echo", "say", text="hi")
        await almost_idle(page)
        with monkeypatch.context() as patch:
            patch.setattr(page.bff.engine.sessions, "touch", away)
            with pytest.raises(ConnectionError):
                await check.check()
        await check.check()
        assert await ttl(page) > 1000
