"""Where a credential can be, which one is used, and when a cookie is accepted."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from bff.auth.authenticator import Authenticator
from bff.auth.caller import Caller
from bff.auth.tickets import Tickets
from bff.errors import Code, Problem
from starlette.requests import HTTPConnection

from tests.engine.auth.conftest import MakeToken

ORIGIN = "http://localhost:8000"
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
