"""The identity provider ends sessions (OpenID Connect Back-Channel Logout 1.0)."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from bff.auth.logout_token import EVENT, MAX_AGE_SECONDS, Logout, LogoutRefused
from bff.auth.oidc.provider import MEMORY_ISSUER
from bff.auth.session_key import SessionKey
from bff.auth.session_tokens import Tokens
from bff.auth.sessions import SignIn
from bff.endpoints import backchannel_logout
from bff.errors import Code, Problem
from bff.settings import Settings
from bff.testing import RunningBff, run, until
from bff.testing.plugin import SECRET
from jose import jwt
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.engine.echo import create_app

ISSUER = "https://id.example"
ORIGIN = "http://localhost:8000"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"jwt_issuer": ISSUER, "jwt_audience": "shop"})


def claims(**changes: Any) -> dict[str, Any]:
    """Those of a logout token that is valid; claims that are None are left out."""
    now = int(time.time())
    valid = {
        "iss": ISSUER,
        "aud": "shop",
        "iat": now,
        "exp": now + 120,
        "jti": secrets.token_hex(8),
        "events": {EVENT: {}},
        "sid": "s-1",
    } | changes
    return {name: value for name, value in valid.items() if value is not None}


def signed(secret: str = SECRET, **changes: Any) -> str:
    return jwt.encode(claims(**changes), secret, algorithm="HS256")


async def send(bff: RunningBff, token: str) -> httpx2.Response:
    async with httpx2.AsyncClient(base_url=f"http://{bff.address}") as http:
        return await http.post("/auth/backchannel-logout", data={"logout_token": token})


@asynccontextmanager
async def two_sessions(bff: RunningBff) -> AsyncIterator[tuple[Any, Any]]:
    async with (
        bff.browser(token=bff.token("alice", session_id="s-1")) as first,
        bff.browser(token=bff.token("alice", session_id="s-2")) as second,
    ):
        yield first, second


async def is_alive(browser: Any) -> bool:
    answer = await browser.ask({"type": "ping", "payload": {"trace_id": "alive"}})
    return bool(answer == {"trace_id": "alive"})


async def test_the_session_that_the_token_names_ends_and_no_other(bff: RunningBff) -> None:
    async with two_sessions(bff) as (first, second):
        response = await send(bff, signed())
        assert (response.status_code, response.json()) == (200, {})
        assert "no-store" in response.headers["cache-control"]
        assert await first.closed() == 4505
        assert await is_alive(second)


async def test_without_a_session_all_sessions_of_the_user_end(bff: RunningBff) -> None:
    async with two_sessions(bff) as (first, second):
        assert (await send(bff, signed(sid=None, sub="alice"))).status_code == 200
        assert await first.closed() == await second.closed() == 4505


async def test_a_late_logout_of_a_user_spares_sign_ins_after_it(bff: RunningBff) -> None:
    async with two_sessions(bff) as (first, _):
        before = int(time.time()) - 60
        assert (await send(bff, signed(sid=None, sub="alice", iat=before))).status_code == 200
        assert await is_alive(first)


async def test_a_session_that_was_logged_out_before_it_came_stays_out(bff: RunningBff) -> None:
    assert (await send(bff, signed(sid="s-3"))).status_code == 200
    headers = {"Authorization": f"Bearer {bff.token('alice', session_id='s-3')}"}
    async with bff.handshake("", headers) as browser:
        assert await browser.closed() == 4505


REFUSED: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "https://evil.example"},
    "no issuer": {"iss": None},
    "another client": {"aud": "other"},
    "other clients": {"aud": ["other", "more"]},
    "no audience": {"aud": None},
    "no iat": {"iat": None},
    "an iat that is no time": {"iat": "now"},
    "issued in an hour": {"iat": int(time.time()) + 3600},
    "issued an hour ago": {"iat": int(time.time()) - 3600},
    "expired": {"exp": int(time.time()) - 61},
    "an exp that is no time": {"exp": "soon"},
    "no events": {"events": None},
    "another event": {"events": {"http://schemas.openid.net/event/other": {}}},
    "an event that is no object": {"events": {EVENT: True}},
    "events that are no object": {"events": [EVENT]},
    "a nonce": {"nonce": "n"},
    "no jti": {"jti": None},
    "a jti of another type": {"jti": 1},
    "neither sid nor sub": {"sid": None},
    "a sid of another type": {"sid": ["s-1"]},
    "an empty sub": {"sub": ""},
    "a sid with a line break": {"sid": "s\n1"},
}


@pytest.mark.parametrize("changes", REFUSED.values(), ids=REFUSED)
def test_claims_that_are_not_those_of_a_logout_token_are_refused(changes: dict[str, Any]) -> None:
    def logout(**changes: Any) -> Logout:
        return Logout.from_claims(claims(**changes), issuer=ISSUER, audience="shop", leeway=60)

    now = int(time.time())
    assert logout(iat=now - MAX_AGE_SECONDS - 30, exp=now - 30).session_id == "s-1"
    assert logout(iat=now + 30, aud=["other", "shop"], sid=None, sub="alice").user_id == "alice"
    with pytest.raises(LogoutRefused):
        logout(**changes)


async def test_a_token_that_is_not_valid_ends_nothing(bff: RunningBff) -> None:
    async with two_sessions(bff) as (first, _):
        for fault, changes in REFUSED.items():
            response = await send(bff, signed(**changes))
            assert response.status_code == 400, fault
            assert response.json()["error"] == "invalid_request"
            assert "no-store" in response.headers["cache-control"]
        assert await is_alive(first)


async def test_a_token_with_another_signature_ends_nothing(bff: RunningBff) -> None:
    header, body, signature = signed().split(".")
    unsigned = jwt.encode(claims(), "", algorithm="HS256").split(".")
    forged = [signed(secret="x" * 40), f"{header}.{body}.", f"{header}.{unsigned[1]}.{signature}"]
    async with two_sessions(bff) as (first, _):
        for token in (*forged, "", "x", "x" * 20_000, bff.token("alice", session_id="s-1")):
            assert (await send(bff, token)).status_code == 400
        assert await is_alive(first)


async def test_what_is_no_form_with_one_token_is_refused(bff: RunningBff) -> None:
    token, form = signed(), "application/x-www-form-urlencoded"
    async with httpx2.AsyncClient(base_url=f"http://{bff.address}") as http:
        for body, kind in (
            ("", form),
            (f"logout_token={token}&logout_token={token}", form),
            (f'{{"logout_token": "{token}"}}', "application/json"),
            (f"logout_token={token}", "text/plain"),
        ):
            response = await http.post(
                "/auth/backchannel-logout", content=body, headers={"Content-Type": kind}
            )
            assert response.status_code == 400, body[:20]
        assert (await http.get("/auth/backchannel-logout")).status_code == 405


async def test_a_token_is_used_once(bff: RunningBff) -> None:
    token = signed()
    answers = await asyncio.gather(*(send(bff, token) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 400, 400, 400, 400]
    assert (await send(bff, signed(sid="s-9"))).status_code == 200


async def test_a_token_can_be_sent_again_when_redis_failed(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = signed()
    with monkeypatch.context() as patch:

        async def fail(_: str) -> None:
            raise RedisConnectionError

        patch.setattr(bff.engine.revocations, "revoke_provider_session", fail)
        assert (await send(bff, token)).status_code == 503
    assert (await send(bff, token)).status_code == 200


@pytest.mark.parametrize("command", ["SET", "DEL"])
async def test_a_token_can_be_sent_again_when_the_answers_of_redis_were_lost(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Redis has marked the token as used, and the BFF does not know it, or cannot take it back."""
    monkeypatch.setattr(backchannel_logout, "_CLAIM_SECONDS", 1)
    pipeline = bff.engine.cluster.pipeline
    submit, lost = pipeline.submit, asyncio.get_running_loop().create_future()
    lost.set_exception(RedisConnectionError())
    lost.exception()
    token = signed()

    def submit_and_lose(*args: Any, **options: Any) -> asyncio.Future[Any]:
        if ":logout:" not in str(args[1]) or args[0] not in (command, "DEL"):
            return submit(*args, **options)
        if args[0] == "SET":
            submit(*args, **options)
        return lost

    async def fail(_: str) -> None:
        raise RedisConnectionError

    async with two_sessions(bff) as (first, _):
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "submit", submit_and_lose)
            patch.setattr(bff.engine.revocations, "revoke_provider_session", fail)
            assert (await send(bff, token)).status_code == 503

        async def is_accepted() -> bool:
            return (await send(bff, token)).status_code == 200

        await until(is_accepted)
        assert await first.closed() == 4505


async def test_administrators_can_read_what_the_provider_ended_and_what_it_could_not(
    bff: RunningBff,
) -> None:
    token = signed()
    for sent in (token, signed(sid=None, sub="alice"), token):
        await send(bff, sent)
    audit = bff.engine.audit
    await audit._waiting.join()
    entries = await audit.read(action="provider_logout")
    assert {(one.actor_id, one.address) for one in entries} == {(None, "127.0.0.1")}
    told = [(one.outcome, one.session_id, one.user_id, one.details) for one in entries]
    assert sorted(told, key=repr) == [
        ("done", "s-1", None, {}),
        ("done", None, "alice", {}),
        ("refused", None, None, {"reason": "used before"}),
    ]


async def test_the_number_of_logouts_is_limited_before_their_tokens_are_read(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(address: str) -> None:
        raise Problem(Code.RATE_LIMITED, f"too many from {address}")

    token = signed()
    with monkeypatch.context() as patch:
        patch.setattr(bff.engine.handshake_limit, "check", refuse)
        answer = await send(bff, token)
    assert answer.status_code == 429
    assert "127.0.0.1" in answer.text
    assert (await send(bff, token)).status_code == 200, "it is not used up"


async def test_a_logout_token_does_not_sign_in(bff: RunningBff) -> None:
    token = signed(sub="alice", sid="s-7")
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(base_url=f"http://{bff.address}", headers=headers) as http:
        assert (await http.get("/auth/me")).status_code == 401


async def test_without_a_provider_there_is_no_logout(settings: Settings) -> None:
    for missing in ("jwt_issuer", "jwt_audience"):
        async with run(create_app(settings.model_copy(update={missing: None}))) as bff:
            assert (await send(bff, signed())).status_code == 404


async def test_the_provider_ends_the_sessions_of_cookies(settings: Settings) -> None:
    embedded = settings.model_copy(update={"oidc_issuer": "memory://"})
    async with run(create_app(embedded)) as bff:
        provider = bff.engine.identity_provider
        assert provider is not None

        async def session(provider_sid: str) -> SessionKey:
            tokens = Tokens("a", expires_at=0, refresh_at=None, refresh_token=None, id_token="i")
            signed_in = SignIn(
                "alice", "Alice", frozenset(), tokens, provider_sid, "127.0.0.1", "test"
            )
            return (await bff.engine.sessions.create(signed_in))[0]

        ended, other = [await session(sid) for sid in ("p-1", "p-2")]
        cookies = [{"Cookie": f"bff={one.cookie}", "Origin": ORIGIN} for one in (ended, other)]
        async with (
            bff.handshake("", cookies[0]) as first,
            bff.handshake("", cookies[1]) as second,
        ):
            for browser in (first, second):
                assert (await browser.receive())["payload"]["topic"] == "hello"
            logout = claims(iss=MEMORY_ISSUER, aud="bff", sid="p-1")
            answer = await send(bff, provider.sign(logout))
            assert answer.status_code == 200, answer.text
            assert await first.closed() == 4505
            assert await is_alive(second)
        async with bff.handshake("", cookies[0]) as again:
            assert await again.closed() == 4505
        assert await bff.engine.sessions.alive([ended.sid, other.sid]) == [False, True]


async def test_a_token_that_was_used_stays_used_if_redis_fails_when_it_is_sent_again(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = signed()
    assert (await send(bff, token)).status_code == 200
    pipeline = bff.engine.cluster.pipeline
    submit = pipeline.submit

    def lose(*command: Any) -> Any:
        if command[0] == "SET" and ":logout:" in str(command[1]):
            lost = asyncio.get_running_loop().create_future()
            lost.set_exception(RedisConnectionError())
            return lost
        return submit(*command)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "submit", lose)
        assert (await send(bff, token)).status_code == 503
    assert (await send(bff, token)).status_code == 400
