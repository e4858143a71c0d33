"""What an administrator can do from any instance: send, see, and end."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from tests.e2e.browser import Browser
from tests.e2e.conftest import Admin, Connect, Person, until_connected
from tests.e2e.deployment import Cluster
from tests.e2e.processes import Instance
from tests.e2e.waiting import until

DRAIN = 4001
REVOKED = 4504


async def test_a_broadcast_sent_to_one_instance_arrives_on_all_sockets_of_both(
    cluster: Cluster, admin: Admin, alices: list[Browser], bobs: Browser
) -> None:
    everybody = [*alices, bobs]

    async def everybody_is_counted() -> bool:
        return bool((await admin.stats(cluster.b))["connections"] >= len(everybody))

    for sender in (cluster.a, cluster.b):
        await until(everybody_is_counted, "the instances have reported their sockets")
        topic = f"all-from-{sender.name}"
        stored = await admin.broadcast(sender, topic)
        await admin.fence(cluster.a, *everybody)
        for browser in everybody:
            (message,) = browser.events(topic)
            assert message["event"] == {"text": "hi", "broadcast_id": stored["id"]}
            assert message["id"] == stored["message_ids"][0]


async def test_a_broadcast_returns_the_number_of_addressed_connections(
    cluster: Cluster, admin: Admin, alice: Person, alices: list[Browser], bob: Person, bobs: Browser
) -> None:
    to_users = await admin.broadcast(
        cluster.a, "n", audience="users", user_ids=[alice.id, bob.id, "nobody"]
    )
    assert to_users["addressed"] == 4
    assert len(to_users["message_ids"]) == 3
    target = alices[1].connection_id
    to_one = await admin.broadcast(cluster.a, "n", audience="connection", connection_id=target)
    assert to_one["addressed"] == 1
    to_none = await admin.broadcast(cluster.a, "n", audience="connection", connection_id="gone.abc")
    assert to_none["addressed"] == 0


async def test_a_set_of_users_gets_it_and_the_others_do_not(
    cluster: Cluster,
    admin: Admin,
    person: Callable[..., Person],
    connect: Connect,
    alice: Person,
    alices: list[Browser],
    bobs: Browser,
) -> None:
    dora = person("dora")
    doras = await connect(cluster.b, dora)
    stored = await admin.broadcast(
        cluster.a, "set", audience="users", user_ids=[alice.id, dora.id, alice.id]
    )
    assert stored["recipients"] == [alice.id, dora.id]
    await admin.fence(cluster.b, *alices, doras, bobs)
    counts = [len(browser.events("set")) for browser in (*alices, doras, bobs)]
    assert counts == [1, 1, 1, 1, 0]


async def test_one_connection_gets_it_and_the_users_others_do_not(
    cluster: Cluster, admin: Admin, alices: list[Browser]
) -> None:
    for number, target in enumerate(alices):
        topic = f"only-{number}"
        await admin.broadcast(
            cluster.a, topic, audience="connection", connection_id=target.connection_id
        )
        await admin.fence(cluster.a, *alices)
        got_it = [browser for browser in alices if browser.events(topic)]
        assert got_it == [target]


async def test_disconnecting_a_user_closes_all_their_sockets_and_no_other(
    cluster: Cluster, admin: Admin, alice: Person, alices: list[Browser], bobs: Browser
) -> None:
    answer = await admin.call("DELETE", cluster.a, f"/users/{alice.id}/connections")
    assert answer == {"addressed": 3}
    assert [await browser.closed() for browser in alices] == [REVOKED] * 3
    assert await bobs.answers()
    await until_connected(admin, cluster.b, alice.id, set())


async def test_disconnecting_one_connection_leaves_the_users_others(
    cluster: Cluster, admin: Admin, alice: Person, alices: list[Browser]
) -> None:
    victim = alices[1]
    assert await _close(admin, cluster.a, connection_id=victim.connection_id) == [1]
    assert await victim.closed() == REVOKED
    others = [browser for browser in alices if browser is not victim]
    assert all([await browser.answers() for browser in others])
    ids = {browser.connection_id for browser in others}
    await until_connected(admin, cluster.a, alice.id, ids)


async def test_disconnecting_a_set_of_users_closes_all_of_theirs_and_no_others(
    cluster: Cluster,
    admin: Admin,
    person: Callable[..., Person],
    connect: Connect,
    alice: Person,
    alices: list[Browser],
    bobs: Browser,
) -> None:
    dora = person("dora")
    doras = await connect(cluster.b, dora)
    assert await _close(admin, cluster.b, user_ids=[alice.id, dora.id]) == [3, 1]
    assert [await browser.closed() for browser in (*alices, doras)] == [REVOKED] * 4
    assert await bobs.answers()


async def test_disconnecting_everybody_sends_them_elsewhere(
    cluster: Cluster, admin: Admin, alices: list[Browser], bobs: Browser
) -> None:
    await _close(admin, cluster.b)
    assert [await browser.closed() for browser in (*alices, bobs)] == [DRAIN] * 4


async def test_stats_count_what_each_instance_holds(
    cluster: Cluster, admin: Admin, alices: list[Browser]
) -> None:
    ids = [browser.connection_id.partition(".")[0] for browser in alices]

    async def add_up() -> bool:
        stats = await admin.stats(cluster.a)
        counts = {facts["instance"]: facts["connections"] for facts in stats["instances"]}
        assert stats["connections"] == sum(counts.values())
        return bool(counts[ids[0]] >= 1 and counts[ids[1]] >= 2)

    await until(add_up, "each instance has reported its sockets")


async def test_broadcasts_are_kept_and_read_from_any_instance(
    cluster: Cluster, admin: Admin, alice: Person
) -> None:
    begun = datetime.now(UTC)
    sent = [
        await admin.broadcast(instance, "kept", audience="users", user_ids=[alice.id])
        for instance in (cluster.a, cluster.b, cluster.a)
    ]
    assert await admin.call("GET", cluster.b, f"/broadcasts/{sent[0]['id']}") == sent[0]
    assert sent[0]["created_by"] == "carol"
    assert begun <= datetime.fromisoformat(sent[0]["created_at"]) <= datetime.now(UTC)
    newest = await admin.call("GET", cluster.b, "/broadcasts", params={"limit": 2})
    assert newest == [sent[2], sent[1]]
    older = await admin.call(
        "GET", cluster.b, "/broadcasts", params={"limit": 1, "before": sent[1]["id"]}
    )
    assert older == [sent[0]]


async def test_a_retained_broadcast_is_sent_once_to_clients_that_connect_later(
    cluster: Cluster, admin: Admin, alice: Person, bob: Person, connect: Connect
) -> None:
    there = await connect(cluster.b, alice)
    lasting = await admin.broadcast(
        cluster.a,
        "lasting",
        audience="users",
        user_ids=[alice.id],
        expires_at=(datetime.now(UTC) + timedelta(minutes=5)).isoformat(),
    )
    await admin.broadcast(cluster.a, "fleeting", audience="users", user_ids=[alice.id])
    greeted = [await connect(instance, alice) for instance in (cluster.a, cluster.b)]
    stranger = await connect(cluster.b, bob)
    for browser in greeted:
        await browser.event("lasting")
    await admin.fence(cluster.a, there, *greeted, stranger)
    for browser in (there, *greeted):
        (message,) = browser.events("lasting")
        assert message["event"] == {"text": "hi", "broadcast_id": lasting["id"]}
    assert [len(browser.events("fleeting")) for browser in (there, *greeted)] == [1, 0, 0]
    assert stranger.events("lasting") == []


async def test_an_expired_broadcast_is_not_sent_on_connect(
    cluster: Cluster, admin: Admin, alice: Person, connect: Connect
) -> None:
    expiry = datetime.now(UTC) + timedelta(seconds=5)
    await admin.broadcast(
        cluster.a, "short", audience="users", user_ids=[alice.id], expires_at=expiry.isoformat()
    )
    await until(lambda: datetime.now(UTC) > expiry, "it has expired")
    late = await connect(cluster.b, alice)
    await admin.fence(cluster.a, late)
    assert late.events("short") == []


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/broadcasts"),
        ("GET", "/broadcasts"),
        ("GET", "/broadcasts/some-id"),
        ("GET", "/users/alice/connections"),
        ("DELETE", "/users/alice/connections"),
        ("GET", "/stats"),
    ],
)
async def test_only_scope_admin_may(
    cluster: Cluster,
    http: httpx2.AsyncClient,
    person: Callable[..., Person],
    method: str,
    path: str,
) -> None:
    anybody = person("eve", "demo", "orders", "administrator")
    assert await _status(http, cluster.a, method, path) == (401, "unauthenticated")
    assert await _status(http, cluster.a, method, path, anybody) == (403, "forbidden")


async def _close(admin: Admin, instance: Instance, **whom: Any) -> Any:
    """Through the method `demo.close` of the added feature, which asks the `Messenger`."""
    url = f"{instance.url}/rpc/demo/close"
    response = await admin.http.post(url, json=whom, headers=admin.headers)
    assert response.status_code == 200, response.text
    return response.json()


async def _status(
    http: httpx2.AsyncClient,
    instance: Instance,
    method: str,
    path: str,
    caller: Person | None = None,
) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {caller.token}"} if caller else {}
    body = {"audience": "all", "topic": "x", "event": {}} if method == "POST" else None
    url = f"{instance.url}/admin{path}"
    response = await http.request(method, url, json=body, headers=headers)
    return response.status_code, response.json().get("code")
