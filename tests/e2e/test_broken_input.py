"""Whatever comes in gets the right answer or close code, and a neighbour's socket is untouched."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.browser import Browser
from tests.e2e.processes import Program

pytestmark = pytest.mark.usefixtures("neighbour")

KIB = 1024


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


async def test_a_frame_just_below_the_limit_is_accepted(
    nuropb_service: Program, mallory: Browser
) -> None:
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


async def test_a_valid_frame_resets_the_count_of_invalid_frames(mallory: Browser) -> None:
    for _ in range(3):
        for _ in range(8):
            await mallory.send("rubbish")
        assert await mallory.answers()
