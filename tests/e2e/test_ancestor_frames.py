"""A client of nuropb_gw works unchanged: what it sends gets answers of the shape it knows.

`gateway_captures.json` holds what nuropb_gw 0.1.4 answered. The same shape is: every key that was
there is there, with a value of the same JSON type. More keys are allowed, other texts too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.browser import Browser
from tests.e2e.conftest import Admin, Connect, Person
from tests.e2e.deployment import Cluster

pytestmark = pytest.mark.usefixtures("nuropb_service")

CAPTURES = json.loads(Path(__file__).with_name("gateway_captures.json").read_text())


def assert_same_shape(known: Any, answer: Any, place: str = "frame") -> None:
    assert type(answer) is type(known), f"{place}: {answer!r} instead of {known!r}"
    if isinstance(known, dict):
        for key, value in known.items():
            assert key in answer, f"{place} lacks {key!r}: {answer}"
            assert_same_shape(value, answer[key], f"{place}.{key}")


async def test_hello(alices: list[Browser]) -> None:
    for browser in alices:
        assert_same_shape(CAPTURES["hello"], browser.frames[0])


@pytest.mark.parametrize("name", CAPTURES["exchanges"])
async def test_an_exchange(bobs: Browser, name: str) -> None:
    sent, known = CAPTURES["exchanges"][name]["sent"], CAPTURES["exchanges"][name]["answer"]
    await bobs.send(sent if isinstance(sent, str) else json.dumps(sent))
    answer = await bobs.next_frame(1)
    assert_same_shape(known, answer)
    if known.get("type") == "response":
        assert answer["type"] == "response"
        assert set(answer["payload"]) == {"trace_id", "result", "error"}
        if "trace_id" in sent["payload"]:
            assert answer["payload"]["trace_id"] == sent["payload"]["trace_id"]
        if known["payload"]["error"] is not None:
            assert answer["payload"]["error"]["error"] == known["payload"]["error"]["error"]


async def test_a_generated_trace_id_is_new_each_time(bobs: Browser) -> None:
    sent = json.dumps(CAPTURES["exchanges"]["a request without trace_id"]["sent"])
    await bobs.send(sent)
    await bobs.send(sent)
    answers = [await bobs.next_frame(1), await bobs.next_frame(2)]
    assert len({answer["payload"]["trace_id"] for answer in answers}) == 2


@pytest.mark.parametrize("name", CAPTURES["silence"])
async def test_what_met_silence_is_answered_now(bobs: Browser, name: str) -> None:
    await bobs.send(json.dumps(CAPTURES["silence"][name]))
    answer = await bobs.next_frame(1)
    assert answer["type"] in ("error", "response")


async def test_a_request_without_params_has_none(bobs: Browser) -> None:
    """nuropb_gw refused it with a `KeyError`."""
    await bobs.say("request", service="demo", method="echo", trace_id="T2")
    assert (await bobs.response("T2"))["result"] == {}


async def test_a_push_has_the_fields_of_the_convention(
    cluster: Cluster, admin: Admin, bob: Person, bobs: Browser
) -> None:
    await admin.broadcast(cluster.b, "news", audience="users", user_ids=[bob.id])
    payload = await bobs.event("news")
    assert payload["event"]["text"] == "hi"


@pytest.mark.parametrize("written", CAPTURES["authorization"])
async def test_every_way_to_write_the_token_that_worked_works(
    cluster: Cluster, alice: Person, connect: Connect, written: str
) -> None:
    """And `bearer`, which RFC 9110 allows and nuropb_gw did not know."""
    header = written.removesuffix("x") + alice.token
    browser = await connect(cluster.a, authorization=header)
    assert browser.hello["user_id"] == alice.id
