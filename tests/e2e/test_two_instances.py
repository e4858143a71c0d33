"""A user with three sockets spread over two instances, a second user with one."""

from __future__ import annotations

from tests.e2e.browser import Browser
from tests.e2e.conftest import Admin, Connect, Person, until_connected
from tests.e2e.deployment import Cluster


async def test_the_hello_is_the_first_frame_and_names_user_and_connection(
    cluster: Cluster, alice: Person, alices: list[Browser], bobs: Browser
) -> None:
    for browser in alices:
        hello = browser.hello
        assert set(hello) == {
            "session_id",
            "user_id",
            "username",
            "expires_at",
            "expires_in",
            "ping_interval",
            "positions",
            "recovered",
        }
        assert hello["user_id"] == alice.id
        assert hello["username"] == "alice"
        assert hello["ping_interval"] == 25
        assert hello["recovered"] == {}
        assert [
            position.rpartition("/")[0].partition("/")[0]
            for position in (hello["positions"]["user"], hello["positions"]["all"])
        ] == ["user", "all"]
    on_a, on_b, also_on_b = (browser.connection_id.partition(".")[0] for browser in alices)
    assert on_b == also_on_b != on_a == bobs.connection_id.partition(".")[0]
    assert len({browser.connection_id for browser in (*alices, bobs)}) == 4


async def test_every_instance_names_all_sockets_of_a_user(
    cluster: Cluster, admin: Admin, alice: Person, alices: list[Browser], bobs: Browser
) -> None:
    expected = {
        browser.connection_id: browser.connection_id.partition(".")[0] for browser in alices
    }
    for instance in (cluster.a, cluster.b):
        found = await admin.connections(instance, alice.id)
        assert {facts["connection_id"]: facts["instance"] for facts in found} == expected
        assert {facts["address"] for facts in found} == {"127.0.0.1"}
    instances = (await admin.stats(cluster.a))["instances"]
    assert {facts["instance"] for facts in instances} == set(expected.values())


async def test_a_socket_that_leaves_is_forgotten_everywhere(
    cluster: Cluster, admin: Admin, alice: Person, alices: list[Browser]
) -> None:
    first, *others = alices
    await first.close()
    await until_connected(admin, cluster.b, alice.id, {browser.connection_id for browser in others})


async def test_a_message_to_a_user_reaches_each_of_their_connections_once_and_no_others(
    cluster: Cluster, admin: Admin, alice: Person, alices: list[Browser], bobs: Browser
) -> None:
    for sender in (cluster.a, cluster.b):
        topic = f"from-{sender.name}"
        stored = await admin.broadcast(sender, topic, audience="users", user_ids=[alice.id])
        assert stored["addressed"] == 3
        await admin.fence(cluster.a, *alices, bobs)
        for browser in alices:
            (message,) = browser.events(topic)
            assert message["event"] == {"text": "hi", "broadcast_id": stored["id"]}
            assert [message["id"]] == stored["message_ids"]
        assert bobs.events(topic) == []


async def test_messages_of_both_instances_arrive_in_one_order(
    cluster: Cluster, admin: Admin, alice: Person, alices: list[Browser]
) -> None:
    offset = int(alices[0].hello["positions"]["user"].rpartition("/")[2])
    for number in range(20):
        sender = (cluster.a, cluster.b)[number % 2]
        await admin.broadcast(
            sender, "counted", audience="users", user_ids=[alice.id], event={"number": number}
        )
    await admin.fence(cluster.b, *alices)
    for browser in alices:
        counted = browser.events("counted")
        assert [message["event"]["number"] for message in counted] == list(range(20))
        offsets = [int(message["id"].rpartition("/")[2]) for message in counted]
        assert offsets == list(range(offset + 1, offset + 21))


async def test_hello_names_the_position_after_which_messages_come(
    cluster: Cluster, admin: Admin, alice: Person, connect: Connect
) -> None:
    first = await connect(cluster.a, alice)
    await admin.broadcast(cluster.b, "before", audience="users", user_ids=[alice.id])
    seen = await first.event("before")
    second = await connect(cluster.b, alice)
    assert second.hello["positions"]["user"] == seen["id"]


async def test_clients_may_offer_bff_v1_or_no_subprotocol(
    cluster: Cluster, alice: Person, connect: Connect
) -> None:
    modern = await connect(cluster.a, alice, subprotocols=["other", "bff.v1"])
    plain = await connect(cluster.a, alice)
    assert modern.socket.subprotocol == "bff.v1"
    assert plain.socket.subprotocol is None
    assert await modern.answers()
    assert await plain.answers()
