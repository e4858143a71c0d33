"""Who is let in: tokens, tickets, cookies and origins."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from jose import jwt
from websockets.exceptions import InvalidHandshake, InvalidStatus

from tests.e2e.browser import Browser
from tests.e2e.conftest import Admin, Connect, Person
from tests.e2e.deployment import AUDIENCE, ISSUER, ORIGIN, Cluster, Deployment
from tests.e2e.processes import Instance

NOT_AUTHENTICATED = 4500
TOKEN_EXPIRED = 4003
FOREIGN = "http://localhost:8001"


def forged(deployment: Deployment, **claims: Any) -> str:
    """A good token's claims under another secret."""
    good = jwt.get_unverified_claims(deployment.token("alice"))
    return jwt.encode(good | claims, secrets.token_hex(32), algorithm="HS256")


def unsigned(deployment: Deployment) -> str:
    """`alg: none`."""
    claims = deployment.token("alice").split(".")[1]
    return f"eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}."


BAD_TOKENS: dict[str, Callable[[Deployment], str]] = {
    "no token at all": lambda _: "no-token-at-all",
    "another secret": forged,
    "unsigned": unsigned,
    "expired": lambda made: made.token("alice", lifetime=-60),
    "without an end": lambda made: made.token("alice", exp=None),
    "not good yet": lambda made: made.token("alice", nbf=int(time.time()) + 3600),
    "another audience": lambda made: made.token("alice", aud="somebody-else"),
    "another issuer": lambda made: made.token("alice", iss="https://elsewhere.example"),
    "nobody's": lambda made: made.token(""),
}


@pytest.mark.parametrize("name", BAD_TOKENS)
async def test_a_bad_token_is_accepted_and_closed_with_a_code(
    cluster: Cluster, connect: Connect, http: httpx2.AsyncClient, bobs: Browser, name: str
) -> None:
    """Browsers do not show their pages the status of a refused handshake: hence the close code."""
    token = BAD_TOKENS[name](cluster.deployment)
    browser = await connect(cluster.a, token=token, hello=False)
    assert await browser.closed() == NOT_AUTHENTICATED
    assert browser.frames == []
    assert await bobs.answers()
    response = await http.get(
        f"{cluster.a.url}/orders", headers={"Authorization": f"Bearer {token}"}
    )
    assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")
    assert response.headers["www-authenticate"] == "Bearer"


async def test_a_token_too_long_is_refused_and_nothing_hangs(
    cluster: Cluster, http: httpx2.AsyncClient
) -> None:
    """A token may have 16 KiB. A head that is not complete after 64 KiB is read no further."""
    for size, status in ((20_000, 401), (600_000, 431)):
        token = cluster.deployment.token("alice", padding="x" * size)
        response = await http.get(
            f"{cluster.a.url}/orders", headers={"Authorization": f"Bearer {token}"}
        )
        assert response.status_code == status
        if status == 401:
            browser = await Browser.open(cluster.a, token=token)
            assert await browser.closed() == NOT_AUTHENTICATED
        else:
            with pytest.raises(InvalidHandshake):
                await Browser.open(cluster.a, token=token)


async def test_a_long_token_is_as_good_as_a_short_one(cluster: Cluster, connect: Connect) -> None:
    token = cluster.deployment.token("alice", padding="x" * 10_000)
    await connect(cluster.a, token=token)


async def test_without_any_token_likewise(cluster: Cluster, connect: Connect) -> None:
    for origin in (None, ORIGIN):
        browser = await connect(cluster.a, origin=origin, hello=False)
        assert await browser.closed() == NOT_AUTHENTICATED


async def test_a_token_in_the_address_is_none(cluster: Cluster, alice: Person) -> None:
    browser = await Browser.open(cluster.a, query=f"token={alice.token}")
    assert await browser.closed() == NOT_AUTHENTICATED


@pytest.mark.parametrize(
    "origin",
    [
        FOREIGN,
        "http://localhost",
        "https://localhost:8000",
        "http://localhost:8000.example",
        "http://evil-localhost:8000",
        "null",
    ],
)
async def test_a_page_of_another_origin_is_rejected_in_the_handshake(
    cluster: Cluster, alice: Person, origin: str
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await Browser.open(cluster.a, token=alice.token, origin=origin)
    assert refused.value.response.status_code == 403


async def test_a_page_of_an_allowed_origin_is_accepted(
    cluster: Cluster, alice: Person, connect: Connect
) -> None:
    assert await (await connect(cluster.a, alice, origin=ORIGIN)).answers()


async def test_a_ticket_of_one_instance_opens_a_socket_on_the_other_once(
    cluster: Cluster, http: httpx2.AsyncClient, alice: Person, connect: Connect
) -> None:
    ticket = await _ticket(cluster, http, cluster.a, alice)
    browser = await connect(cluster.b, ticket=ticket)
    assert browser.hello["user_id"] == alice.id
    again = await connect(cluster.b, ticket=ticket, hello=False)
    assert await again.closed() == NOT_AUTHENTICATED
    assert await browser.answers()


async def test_a_ticket_is_good_only_for_the_origin_that_asked(
    cluster: Cluster, http: httpx2.AsyncClient, alice: Person, connect: Connect
) -> None:
    ticket = await _ticket(cluster, http, cluster.a, alice, origin=ORIGIN)
    with pytest.raises(InvalidStatus) as refused:
        await Browser.open(cluster.a, ticket=ticket, origin=FOREIGN)
    assert refused.value.response.status_code == 403
    elsewhere = await connect(cluster.a, ticket=ticket, hello=False)
    assert await elsewhere.closed() == NOT_AUTHENTICATED
    second = await _ticket(cluster, http, cluster.a, alice, origin=ORIGIN)
    assert await (await connect(cluster.a, ticket=second, origin=ORIGIN)).answers()


async def test_an_invented_ticket_opens_nothing(cluster: Cluster, connect: Connect) -> None:
    for ticket in (secrets.token_urlsafe(32), "x", "x" * 5000):
        browser = await connect(cluster.a, ticket=ticket, hello=False)
        assert await browser.closed() == NOT_AUTHENTICATED


async def test_a_cookie_counts_only_with_an_origin_of_ours(
    cluster: Cluster, alice: Person, connect: Connect
) -> None:
    assert await (await connect(cluster.a, cookie=alice.token, origin=ORIGIN)).answers()
    for origin in (None, FOREIGN):
        with pytest.raises(InvalidStatus) as refused:
            await Browser.open(cluster.a, cookie=alice.token, origin=origin)
        assert refused.value.response.status_code == 403


async def test_a_cookie_alone_changes_nothing_over_http(
    cluster: Cluster, http: httpx2.AsyncClient, alice: Person
) -> None:
    async def post(origin: str | None) -> int:
        headers = {"Cookie": f"Authorization={alice.token}"} | (
            {"Origin": origin} if origin else {}
        )
        return (await http.post(f"{cluster.a.url}/auth/ticket", headers=headers)).status_code

    assert [await post(None), await post(FOREIGN), await post(ORIGIN)] == [403, 403, 200]


async def test_a_socket_ends_with_its_token_and_lives_on_with_a_fresh_one(
    cluster: Cluster, admin: Admin, connect: Connect
) -> None:
    token = cluster.deployment.token
    user = f"tom-{secrets.token_hex(4)}"
    ends = await connect(cluster.a, token=token(user, lifetime=6))
    lives = await connect(cluster.a, token=token(user, lifetime=6))
    others = await lives.answered("authenticate", token=token("somebody-else"))
    assert others["error"]["code"] == "forbidden"
    old = await lives.answered("authenticate", token=token(user, lifetime=-60))
    assert old["error"]["code"] == "unauthenticated"
    fresh = await lives.answered("authenticate", token=token(user, lifetime=600))
    assert fresh["result"]["expires_at"] > time.time() + 500
    assert await ends.closed() == TOKEN_EXPIRED
    assert await lives.answers()


async def test_bff_token_makes_tokens_that_are_good(cluster: Cluster, connect: Connect) -> None:
    made = cluster.deployment.bff("token", "--user", "zoe", "--scope", "orders", "--scope", "demo")
    assert made.returncode == 0, made.stdout
    token = made.stdout.strip()
    cluster.deployment.canaries.append(token)
    claims = jwt.decode(
        token, cluster.deployment.secret, algorithms="HS256", audience=AUDIENCE, issuer=ISSUER
    )
    assert claims["scope"].split() == ["orders", "demo"]
    browser = await connect(cluster.a, token=token)
    assert browser.hello["user_id"] == "zoe"


async def _ticket(
    cluster: Cluster,
    http: httpx2.AsyncClient,
    instance: Instance,
    person: Person,
    origin: str | None = None,
) -> str:
    headers = {"Authorization": f"Bearer {person.token}"} | ({"Origin": origin} if origin else {})
    response = await http.post(f"{instance.url}/auth/ticket", headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    ticket: str = response.json()["ticket"]
    cluster.deployment.canaries.append(ticket)
    return ticket
