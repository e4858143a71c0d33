"""Whatever comes in gets the right answer or close code, and a neighbour's socket is untouched."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.e2e.browser import Browser
from tests.e2e.conftest import Admin, Cluster, Connect, Person, until_connected
from tests.e2e.processes import Program
from tests.e2e.waiting import until

KIB = 1024


@pytest.fixture(autouse=True)
async def neighbour(
    cluster: Cluster, person: Callable[..., Person], connect: Connect
) -> AsyncIterator[Browser]:
    """Somebody else on the same instance: still answered afterwards, and told nothing."""
    browser = await connect(cluster.a, person("nora", "demo"))
    yield browser
    assert await browser.answers()
    assert [frame["type"] for frame in browser.frames] == ["event", "pong"]


@pytest.fixture
async def mallory(cluster: Cluster, person: Callable[..., Person], connect: Connect) -> Browser:
    """A browser that sends what it should not."""
    return await connect(cluster.a, person("mallory", "demo"))


def request(**payload: Any) -> str:
    return json.dumps({"type": "request", "payload": payload})


# Frames that are no frames: an `error`, and the socket lives


@pytest.mark.parametrize(
    "text",
    [
        "not JSON",
        "",
        "{",
        '{"type": "ping",}',
        '{"type": "ping", "payload": NaN}',
        '{"type": "ping", "payload": {"trace_id": "\\ud800"}}',
        "null",
        "42",
        '"request"',
        "[]",
        "{}",
        '{"payload": {}}',
        '{"type": null, "payload": {}}',
        '{"type": 7, "payload": {}}',
        '{"type": ["request"], "payload": {}}',
        '{"type": "Request", "payload": {}}',
        '{"type": "no-such-type", "payload": {}}',
        '{"type": "ping", "payload": []}',
        '{"type": "ping", "payload": {"trace_id": 5}}',
        '{"type": "cancel", "payload": {}}',
        "[" * 200 + "]" * 200,
        "[" * 30_000 + "]" * 30_000,
        '{"a":' * 10_000 + "1" + "}" * 10_000,
    ],
    ids=lambda text: text[:40] or "nothing",
)
async def test_what_is_no_frame_is_answered_with_an_error(mallory: Browser, text: str) -> None:
    await mallory.send(text)
    answer = await mallory.next_frame(1)
    assert answer["type"] == "error"
    assert answer["payload"]["code"] == "invalid_params"
    assert answer["payload"]["outcome"] == "not_sent"
    assert answer["payload"]["trace_id"] is None
    assert answer["error"] == answer["payload"]["error"]
    assert answer["description"] == answer["payload"]["description"]
    assert await mallory.answers()


@pytest.mark.parametrize(
    ("payload", "place"),
    [
        ({"method": "add"}, "service"),
        ({"service": "demo"}, "method"),
        ({"service": 1, "method": "add"}, "service"),
        ({"service": "demo", "method": None}, "method"),
        ({"service": "de mo", "method": "add"}, "service"),
        ({"service": "demo", "method": "a\nb"}, "method"),
        ({"service": "demo", "method": "x" * 129}, "method"),
        ({"service": "demo", "method": "add", "params": []}, "params"),
        ({"service": "demo", "method": "add", "params": "a=1"}, "params"),
        ({"service": "demo", "method": "add", "timeout_ms": 0}, "timeout_ms"),
        ({"service": "demo", "method": "add", "timeout_ms": "soon"}, "timeout_ms"),
    ],
    ids=str,
)
@pytest.mark.parametrize("type_", ["request", "command"])
async def test_a_wrong_request_is_answered_as_a_request(
    mallory: Browser, type_: str, payload: dict[str, Any], place: str
) -> None:
    answer = await mallory.answered(type_, **payload, trace_id="t-1")
    assert answer["result"] is None
    assert answer["error"]["code"] == "invalid_params"
    assert place in answer["error"]["description"]
    assert await mallory.answers()


@pytest.mark.parametrize(
    "text",
    [
        '{"type": "request"}',
        '{"type": "request", "payload": null}',
        '{"type": "request", "payload": [1]}',
        request(service="demo", method="echo", trace_id=5),
        request(service="demo", method="echo", trace_id="x" * 129),
        request(service="demo", method="echo", trace_id=""),
    ],
    ids=lambda text: text[:60],
)
async def test_a_request_whose_trace_id_cannot_be_made_out_is_answered_too(
    mallory: Browser, text: str
) -> None:
    await mallory.send(text)
    answer = await mallory.next_frame(1)
    assert answer["type"] == "response"
    assert answer["payload"]["error"]["code"] == "invalid_params"


async def test_nesting_is_allowed_to_a_limit(nuropb_service: Program, mallory: Browser) -> None:
    def nested(depth: int) -> dict[str, Any]:
        return {"a": nested(depth - 1)} if depth else {}

    deep_enough = await mallory.ask("demo", "echo", nested(25))
    assert deep_enough["result"] == nested(25)
    too_deep = await mallory.ask("demo", "echo", nested(40))
    assert too_deep["error"]["code"] == "invalid_params"


async def test_topics_that_are_not_offered_are_not_found(mallory: Browser) -> None:
    answer = await mallory.answered("subscribe", topics=[{"topic": "news"}])
    assert answer["error"]["code"] == "not_found"


async def test_a_cancel_of_nothing_is_not_found(mallory: Browser) -> None:
    await mallory.say("cancel", trace_id="never-was")
    answer = await mallory.next_frame(1)
    assert (answer["type"], answer["payload"]["code"]) == ("error", "not_found")
    assert answer["payload"]["trace_id"] == "never-was"


# Frames that end the socket


async def test_a_megabyte_ends_the_socket(mallory: Browser) -> None:
    await mallory.send(request(service="demo", method="echo", params={"x": "y" * 1024 * KIB}))
    assert await mallory.closed() == 1009


async def test_just_below_the_limit_is_let_in(nuropb_service: Program, mallory: Browser) -> None:
    text = "y" * (63 * KIB)
    assert (await mallory.ask("demo", "echo", {"x": text}))["result"] == {"x": text}


async def test_a_binary_frame_ends_the_socket(mallory: Browser) -> None:
    await mallory.send(b'{"type": "ping"}')
    assert await mallory.closed() == 1003


async def test_text_that_is_no_utf8_ends_the_socket(mallory: Browser) -> None:
    await mallory.socket.send(b"\xff\xfe", text=True)
    assert await mallory.closed() == 1007


async def test_nothing_but_rubbish_ends_the_socket(mallory: Browser) -> None:
    for _ in range(10):
        await mallory.send("rubbish")
    assert await mallory.closed() == 4501
    assert [frame["type"] for frame in mallory.frames] == ["event"] + ["error"] * 10


async def test_a_sensible_frame_between_forgives_the_rubbish(mallory: Browser) -> None:
    for _ in range(3):
        for _ in range(8):
            await mallory.send("rubbish")
        assert await mallory.answers()


# Limits


async def test_who_asks_too_much_is_told_and_who_goes_on_is_closed(mallory: Browser) -> None:
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


async def test_a_socket_that_does_not_read_is_closed_and_delays_nobody(
    cluster: Cluster, admin: Admin, mallory: Browser, connect: Connect
) -> None:
    user_id, slow_id = mallory.hello["user_id"], mallory.connection_id
    reader = await connect(cluster.a, token=cluster.deployment.token(user_id))
    mallory.socket.transport.pause_reading()
    event = {"text": "z" * 60 * KIB}
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
