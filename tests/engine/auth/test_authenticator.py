"""Where a credential can be, which one is used, and when a cookie is accepted."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from bff.auth.authenticator import Authenticator
from bff.auth.caller import Caller
from bff.auth.revocations import SessionEnded
from bff.auth.sessions import SessionStore
from bff.auth.tickets import Tickets
from bff.auth.tokens import TokenVerifier
from bff.errors import Code, Problem
from bff.redis.client import RedisClient
from bff.redis.pipeline import AutoPipeline
from bff.settings import Settings
from starlette.requests import HTTPConnection

from tests.engine.auth.conftest import MakeToken

ORIGIN = "http://localhost:8000"
LISTED = {"origin": ORIGIN}
SPELLINGS = ["Bearer {}", "bearer {}", "BEARER  {}", "{}", "Bearer :{}", "Bearer:{}", "Bearer: {}"]


def handshake(query: str = "", **headers: str | None) -> HTTPConnection:
    return HTTPConnection(
        {
            "type": "websocket",
            "path": "/ws",
            "query_string": query.encode(),
            "headers": [
                (name.encode(), value.encode("latin-1"))
                for name, value in headers.items()
                if value is not None
            ],
        }
    )


async def assert_problem(code: Code, authenticator: Authenticator, *args: Any, **kw: Any) -> None:
    with pytest.raises(Problem) as caught:
        await authenticator.authenticate_socket(handshake(*args, **kw))
    assert caught.value.code is code


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_every_usual_form_of_the_header_is_accepted(
    authenticator: Authenticator, make_token: MakeToken, spelling: str
) -> None:
    connection = handshake(authorization=spelling.format(make_token()))
    assert (await authenticator.authenticate_socket(connection)).user_id == "alice"


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_every_usual_form_of_the_cookie_is_accepted(
    authenticator: Authenticator, make_token: MakeToken, spelling: str
) -> None:
    value = spelling.format(make_token())
    for written in (value, quote(value), f'"{value}"'):
        connection = handshake(cookie=f"a=b; Authorization={written}; c=d", origin=ORIGIN)
        assert (await authenticator.authenticate_socket(connection)).user_id == "alice"


async def test_a_ticket_is_accepted(
    authenticator: Authenticator, tickets: Tickets, alice: Caller
) -> None:
    ticket = await tickets.issue(alice, ORIGIN)
    connection = handshake(f"ticket={ticket}&since=x", origin=ORIGIN)
    assert await authenticator.authenticate_socket(connection) == alice


async def test_a_handshake_without_a_credential_is_refused(authenticator: Authenticator) -> None:
    await assert_problem(Code.UNAUTHENTICATED, authenticator)
    await assert_problem(Code.UNAUTHENTICATED, authenticator, origin=ORIGIN)
    await assert_problem(Code.UNAUTHENTICATED, authenticator, authorization="Bearer ")


@pytest.mark.parametrize("name", ["token", "access_token", "authorization", "Authorization"])
async def test_a_token_in_the_url_is_ignored(
    authenticator: Authenticator, make_token: MakeToken, name: str
) -> None:
    await assert_problem(Code.UNAUTHENTICATED, authenticator, f"{name}={make_token()}")
    await assert_problem(Code.UNAUTHENTICATED, authenticator, f"ticket={make_token()}")


async def test_only_the_first_credential_is_checked(
    authenticator: Authenticator, make_token: MakeToken, tickets: Tickets, alice: Caller
) -> None:
    good, bad = make_token(), make_token(exp=1)
    await assert_problem(Code.UNAUTHENTICATED, authenticator, "ticket=x", authorization=good)
    await assert_problem(
        Code.UNAUTHENTICATED,
        authenticator,
        authorization=bad,
        cookie=f"Authorization={good}",
        origin=ORIGIN,
    )
    twice = f"Authorization={good}; Authorization={good}"
    await assert_problem(Code.UNAUTHENTICATED, authenticator, cookie=twice, origin=ORIGIN)
    ticket = await tickets.issue(alice, None)
    bob = make_token(sub="bob")
    both = handshake(f"ticket={ticket}", authorization=bob)
    assert (await authenticator.authenticate_socket(both)).user_id == "alice"


async def test_an_origin_that_is_not_allowed_is_forbidden_with_every_credential(
    authenticator: Authenticator, make_token: MakeToken, tickets: Tickets, alice: Caller
) -> None:
    token = make_token()
    ticket = await tickets.issue(alice, None)
    for credential in (
        {"authorization": token},
        {"cookie": f"Authorization={token}"},
        {"query": f"ticket={ticket}"},
        {},
    ):
        for origin in ("http://evil", "null", ""):
            await assert_problem(Code.FORBIDDEN, authenticator, **credential, origin=origin)


async def test_only_a_cookie_needs_an_origin(
    authenticator: Authenticator, make_token: MakeToken
) -> None:
    token = make_token()
    await assert_problem(Code.FORBIDDEN, authenticator, cookie=f"Authorization={token}")
    caller = await authenticator.authenticate_socket(handshake(authorization=token))
    assert caller.user_id == "alice"
    unused = {"cookie": f"Authorization={token}"}
    authenticator.check_origin(handshake("ticket=x", **unused))
    with pytest.raises(Problem):
        authenticator.check_origin(handshake(**unused))


async def test_an_event_stream_goes_by_header_or_by_the_cookie_of_an_own_page(
    authenticator: Authenticator, make_token: MakeToken, tickets: Tickets, alice: Caller
) -> None:
    token, ticket = make_token(), await tickets.issue(alice, None)
    header, cookie = {"authorization": token}, {"cookie": f"Authorization={token}"}
    own, foreign = {"sec-fetch-site": "same-origin"}, {"origin": "http://evil"}
    allowed: list[dict[str, str]] = [header, header | own, cookie | own, cookie | LISTED]
    for accepted in allowed:
        assert (await authenticator.authenticate_stream(handshake(**accepted))).user_id == "alice"
    refused: list[tuple[dict[str, str], Code]] = [
        ({}, Code.UNAUTHENTICATED),
        ({"query": f"ticket={ticket}"}, Code.UNAUTHENTICATED),
        (cookie, Code.FORBIDDEN),
        (cookie | {"sec-fetch-site": "same-site"}, Code.FORBIDDEN),
        (cookie | own | foreign, Code.FORBIDDEN),
        (header | foreign, Code.FORBIDDEN),
    ]
    for fields, code in refused:
        with pytest.raises(Problem) as caught:
            await authenticator.authenticate_stream(handshake(**fields))
        assert caught.value.code is code, fields


async def test_who_is_revoked_is_refused_on_every_way(
    settings: Settings, tickets: Tickets, make_token: MakeToken, redis: RedisClient, alice: Caller
) -> None:
    class Revoked:
        async def check(self, caller: Caller) -> None:
            if caller.user_id == "alice":
                raise SessionEnded

    sessions = SessionStore(AutoPipeline(redis), settings)
    authenticator = Authenticator(settings, TokenVerifier(settings), tickets, sessions, Revoked())
    token, ticket = make_token(), await tickets.issue(alice, None)
    connection = handshake(authorization=token)
    for refused in (
        authenticator.authenticate_socket(handshake(f"ticket={ticket}")),
        authenticator.authenticate_socket(connection),
        authenticator.authenticate_stream(connection),
        authenticator.authenticate(connection),
        authenticator.verify(token),
    ):
        with pytest.raises(SessionEnded):
            await refused
    assert (await authenticator.verify(make_token(sub="bob"))).user_id == "bob"


# Over HTTP


@pytest.mark.parametrize(
    ("method", "origin", "status"),
    [
        ("GET", None, 200),
        ("GET", ORIGIN, 200),
        ("POST", ORIGIN, 200),
        ("POST", None, 403),
        ("POST", "http://evil", 403),
        ("POST", "null", 403),
    ],
)
async def test_unsafe_methods_with_a_cookie_need_an_allowed_origin(
    http: httpx2.AsyncClient, make_token: MakeToken, method: str, origin: str | None, status: int
) -> None:
    headers = {"Cookie": f"Authorization={make_token()}"} | ({"Origin": origin} if origin else {})
    assert (await http.request(method, "/whoami", headers=headers)).status_code == status


async def test_a_header_needs_no_origin(http: httpx2.AsyncClient, make_token: MakeToken) -> None:
    headers = {"Authorization": f"Bearer {make_token()}"}
    for method in ("GET", "POST"):
        response = await http.request(method, "/whoami", headers=headers)
        assert response.json() == {"user_id": "alice", "scopes": ["orders"]}


async def test_a_request_without_a_credential_is_401(http: httpx2.AsyncClient) -> None:
    response = await http.get("/whoami")
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["code"] == "unauthenticated"


async def test_a_ticket_is_not_accepted_over_http(
    http: httpx2.AsyncClient, tickets: Tickets, alice: Caller
) -> None:
    ticket = await tickets.issue(alice, None)
    assert (await http.get("/whoami", params={"ticket": ticket})).status_code == 401
