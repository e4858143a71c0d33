"""Limits: a client that exceeds one gets an error, and other clients are not affected."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.browser import Browser
from tests.e2e.conftest import Admin, Connect, Person, until_connected
from tests.e2e.deployment import Cluster
from tests.e2e.processes import Program
from tests.e2e.waiting import until

pytestmark = pytest.mark.usefixtures("neighbour")


async def test_a_client_that_sends_too_much_gets_errors_and_is_closed_if_it_continues(
    mallory: Browser,
) -> None:
    """A burst of 100; another 200 beyond it, which are all answered, are too many."""
    for number in range(100):
        await mallory.say("ping", trace_id=str(number))
    await mallory.say("request", service="demo", method="echo", trace_id="too-much")
    for _ in range(400):
        if not mallory.is_open:
            break
        await mallory.say("ping")
    assert await mallory.closed() == 4007
    pongs = [frame for frame in mallory.frames if frame["type"] == "pong"]
    assert 100 <= len(pongs) < 200
    told = [frame for frame in mallory.frames if frame["type"] == "error"]
    assert {frame["payload"]["code"] for frame in told} == {"rate_limited"}
    assert len(told) >= 199


async def test_a_request_beyond_the_rate_is_answered_as_a_request(mallory: Browser) -> None:
    for _ in range(130):
        await mallory.say("ping")
    error = (await mallory.ask("demo", "echo"))["error"]
    assert (error["code"], error["retryable"], error["outcome"]) == (
        "rate_limited",
        True,
        "not_sent",
    )


async def test_a_user_has_a_number_of_sockets_over_all_instances(
    cluster: Cluster, admin: Admin, alice: Person, connect: Connect
) -> None:
    browsers = [await connect((cluster.a, cluster.b)[n % 2], alice) for n in range(20)]
    for instance in (cluster.a, cluster.b):
        one_more = await connect(instance, alice, hello=False)
        assert await one_more.closed() == 4008
        assert one_more.frames == []
    assert all([await browser.answers() for browser in browsers])
    await browsers.pop().close()
    ids = {browser.connection_id for browser in browsers}
    await until_connected(admin, cluster.a, alice.id, ids)
    assert await (await connect(cluster.a, alice)).answers()


async def test_a_socket_has_a_number_of_requests_in_flight(
    nuropb_service: Program, mallory: Browser
) -> None:
    slow: dict[str, Any] = {"service": "demo", "method": "slow", "params": {"seconds": 1.5}}
    for number in range(32):
        await mallory.say("request", **slow, trace_id=f"slow-{number}")
    twice = await mallory.answered("request", **slow, trace_id="slow-0")
    assert twice["error"]["code"] == "conflict"
    error = (await mallory.ask("demo", "echo"))["error"]
    assert (error["code"], error["retryable"]) == ("too_many_in_flight", True)
    await until(
        lambda: all(mallory.responses(f"slow-{number}") for number in range(32)), "all are answered"
    )
    answers = [mallory.responses(f"slow-{number}")[-1] for number in range(32)]
    assert all(answer["payload"]["error"] is None for answer in answers)
    assert (await mallory.ask("demo", "echo"))["error"] is None


async def test_an_answer_too_large_is_an_error_and_no_closed_socket(mallory: Browser) -> None:
    error = (await mallory.ask("demo", "huge"))["error"]
    assert (error["code"], error["outcome"]) == ("service_error", "done")
    assert await mallory.answers()


async def test_a_client_that_does_not_read_is_closed_and_does_not_delay_others(
    cluster: Cluster, admin: Admin, mallory: Browser, connect: Connect
) -> None:
    user_id, slow_id = mallory.hello["user_id"], mallory.connection_id
    reader = await connect(cluster.a, token=cluster.deployment.token(user_id))
    mallory.socket.transport.pause_reading()
    event = {"text": "z" * 60 * 1024}
    sent = 0

    async def is_gone() -> bool:
        nonlocal sent
        for _ in range(10):
            await admin.broadcast(
                cluster.b, "bulk", audience="users", user_ids=[user_id], event=event
            )
            sent += 1
        found = await admin.connections(cluster.a, user_id)
        return slow_id not in {facts["connection_id"] for facts in found}

    await until(is_gone, "the socket that does not read is gone")
    await until(lambda: len(reader.events("bulk")) == sent, "the other socket has everything")
    mallory.socket.transport.resume_reading()
    await mallory.socket.wait_closed()
