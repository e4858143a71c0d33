"""Frames over a real WebSocket: every frame is answered, requests run concurrently."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from bff.auth.caller import Caller
from bff.connections.close_codes import CloseCode
from bff.connections.messages import Response
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings
from bff.telemetry.logs import JsonFormatter, TextFormatter
from bff.testing import Browser, RunningBff, run, until
from pydantic import BaseModel, Field

from tests.engine.doubles import RecordingTransport
from tests.engine.echo import create_app

realtime = RealtimeRouter()


class Wait(BaseModel):
    seconds: float


class Words(BaseModel):
    count: int


@realtime.method("slow.wait")
async def wait(params: Wait) -> str:
    await asyncio.sleep(params.seconds)
    return "waited"


@realtime.method("slow.now")
async def now() -> float:
    return float("nan")


class Price(BaseModel):
    cents: int = Field(alias="inCents")


@realtime.method("shop.price")
async def price() -> Price:
    return Price(inCents=7)


@realtime.method("shop.words")
async def words(params: Words) -> str:
    return "x" * params.count


@realtime.method("broken.bug")
async def bug() -> None:
    raise RuntimeError("s3cr3t internal detail")


@realtime.method("broken.result")
async def result() -> object:
    return object()


@realtime.method("broken.large")
async def large() -> str:
    return "x" * (2 * 1024 * 1024)


@realtime.method("closed.door", scopes=["keyholder"])
async def door() -> None: ...


@pytest.fixture(params=[None, "websockets-sansio"], ids=["detached", "asgi"])
async def bff(request: pytest.FixtureRequest, settings: Settings) -> AsyncIterator[RunningBff]:
    """Once on `bff serve`, once on another ASGI server."""
    async with run(create_app(settings, realtime), ws=request.param) as running:
        yield running


@pytest.fixture
async def browser(bff: RunningBff) -> AsyncIterator[Browser]:
    async with bff.browser() as browser:
        yield browser


def call(service: str, method: str, trace_id: str, **payload: Any) -> dict[str, Any]:
    return {
        "type": "request",
        "payload": {"service": service, "method": method, "trace_id": trace_id, **payload},
    }


async def code_of(browser: Browser, frame: dict[str, Any]) -> str:
    answer = await browser.ask(frame)
    code: str = (answer["error"] if isinstance(answer["error"], dict) else answer)["code"]
    return code


async def test_a_slow_request_does_not_block_others(browser: Browser) -> None:
    """`nuropb_gw` handled the frames of a connection one by one."""
    await browser.send(call("slow", "wait", "first", params={"seconds": 0.5}))
    await browser.send(call("slow", "now", "second"))
    answers = [await browser.receive(), await browser.receive()]
    assert [answer["payload"]["trace_id"] for answer in answers] == ["second", "first"]


async def test_nan_in_a_result_arrives_as_null(browser: Browser) -> None:
    answer = await browser.request("slow", "now")
    assert answer == {"trace_id": "slow.now", "result": None, "error": None}


async def test_a_model_arrives_under_the_names_of_its_contract(browser: Browser) -> None:
    assert (await browser.ask(call("shop", "price", "t")))["result"] == {"inCents": 7}


async def test_the_largest_result_arrives(bff: RunningBff, settings: Settings) -> None:
    size = settings.max_queue_bytes - len(Response("t", "").encode())
    async with bff.browser(max_size=None) as browser:
        answer = await browser.ask(call("shop", "words", "t", params={"count": size}))
        assert len(answer["result"]) == size
        frame = call("shop", "words", "t", params={"count": size + 1})
        assert await code_of(browser, frame) == "service_error"


async def test_a_missing_trace_id_is_generated(browser: Browser) -> None:
    await browser.send({"type": "request", "payload": {"service": "slow", "method": "now"}})
    assert (await browser.receive())["payload"]["trace_id"]


async def test_timeout_ms_limits_the_request(browser: Browser) -> None:
    answer = await browser.ask(call("slow", "wait", "t", params={"seconds": 30}, timeout_ms=50))
    assert (answer["error"]["code"], answer["error"]["outcome"]) == ("timeout", "unknown")


async def test_a_cancelled_request_is_answered(browser: Browser) -> None:
    await browser.send(call("slow", "wait", "t", params={"seconds": 30}))
    answer = await browser.ask({"type": "cancel", "payload": {"trace_id": "t"}})
    assert answer["error"]["code"] == "cancelled"


async def test_cancel_of_an_unknown_request_is_not_found(browser: Browser) -> None:
    assert await code_of(browser, {"type": "cancel", "payload": {"trace_id": "x"}}) == "not_found"


async def test_a_second_request_with_the_same_trace_id_is_a_conflict(browser: Browser) -> None:
    await browser.send(call("slow", "wait", "t", params={"seconds": 30}))
    assert await code_of(browser, call("slow", "now", "t")) == "conflict"


async def test_running_requests_are_limited(browser: Browser, settings: Settings) -> None:
    for number in range(settings.max_requests_per_connection):
        await browser.send(call("slow", "wait", f"{number}", params={"seconds": 30}))
    assert await code_of(browser, call("slow", "now", "more")) == "too_many_in_flight"


@pytest.mark.parametrize(
    ("method", "code"),
    [("bug", "internal"), ("result", "service_error"), ("large", "service_error")],
)
async def test_a_bug_is_answered_without_internal_details(
    browser: Browser, method: str, code: str
) -> None:
    answer = await browser.request("broken", method)
    assert answer["error"]["code"] == code
    assert "s3cr3t" not in str(answer)
    assert (await browser.request("slow", "now"))["error"] is None


async def test_a_trace_id_is_logged_as_a_field_and_forges_no_line(
    browser: Browser, caplog: pytest.LogCaptureFixture
) -> None:
    await browser.ask(call("broken", "bug", "x\u2028CRITICAL forged"))
    (record,) = [
        one for one in caplog.records if one.getMessage() == "request failed: unexpected exception"
    ]
    assert vars(record)["trace_id"] == "x\u2028CRITICAL forged"
    assert vars(record)["connection"] == browser.hello["session_id"]
    assert vars(record)["handler"] == "broken.bug"
    for formatter in (JsonFormatter(), TextFormatter()):
        assert len(formatter.format(record).split("Traceback")[0].splitlines()) == 1


@pytest.mark.parametrize("timeout_ms", [10**400, 2**70])
async def test_a_huge_timeout_is_cut_to_the_maximum(bff: RunningBff, timeout_ms: int) -> None:
    async with bff.http() as http:
        answer = await http.post(f"/rpc/slow/now?timeout_ms={timeout_ms}", json={})
    assert answer.status_code == 200


async def test_methods_must_be_exposed_and_need_their_scopes(browser: Browser) -> None:
    assert await code_of(browser, call("unknown", "method", "t")) == "not_found"
    assert await code_of(browser, call("closed", "door", "t")) == "forbidden"


async def test_invalid_parameters_are_named(browser: Browser) -> None:
    answer = await browser.request("slow", "wait", seconds="many")
    assert answer["error"]["code"] == "invalid_params"
    assert answer["error"]["description"].startswith("seconds:")


async def test_a_command_is_accepted_or_refused(browser: Browser) -> None:
    frame = call("slow", "now", "t") | {"type": "command"}
    assert (await browser.ask(frame))["result"] == {"accepted": True}
    frame = call("unknown", "now", "t") | {"type": "command"}
    assert await code_of(browser, frame) == "not_found"


async def test_ping_is_answered(browser: Browser) -> None:
    await browser.send({"type": "ping"})
    assert (await browser.receive())["type"] == "pong"


async def test_a_fresh_token_extends_the_connection(bff: RunningBff, browser: Browser) -> None:
    token = bff.token("alice", lifetime=3600)
    frame = {"type": "authenticate", "payload": {"token": token, "trace_id": "t"}}
    answer = await browser.ask(frame)
    assert answer["result"]["expires_at"] > time.time() + 3000
    assert 3000 < answer["result"]["expires_in"] <= 3600


async def test_invalid_tokens_and_those_of_other_users_are_refused(
    bff: RunningBff, browser: Browser
) -> None:
    for token, code in ((bff.token("bob"), "forbidden"), ("nonsense", "unauthenticated")):
        frame = {"type": "authenticate", "payload": {"token": token, "trace_id": "t"}}
        assert await code_of(browser, frame) == code


async def test_bad_frames_are_answered_and_then_close_the_connection(browser: Browser) -> None:
    for _ in range(10):
        await browser.send("not JSON")
        assert (await browser.receive())["type"] == "error"
    assert await browser.closed() == CloseCode.BAD_FRAME


@pytest.mark.parametrize("kind", ["request", "command", "subscribe", "cancel", "nonsense"])
async def test_a_malformed_frame_without_a_trace_id_is_answered(
    browser: Browser, kind: str
) -> None:
    await browser.send({"type": kind, "payload": {"params": 7, "topics": 7}})
    answer = (await browser.receive())["payload"]
    error = answer["error"] if isinstance(answer["error"], dict) else answer
    assert error["code"] == "invalid_params"
    assert await code_of(browser, call("slow", "nothing", "next")) == "not_found"


async def test_a_binary_frame_closes_the_connection(browser: Browser) -> None:
    await browser.send(b"\x00")
    assert await browser.closed() == CloseCode.UNSUPPORTED_DATA


async def test_a_frame_that_is_too_large_closes_the_connection(
    browser: Browser, settings: Settings
) -> None:
    await browser.send("x" * (settings.max_frame_bytes + 1))
    assert await browser.closed() == 1009


@pytest.mark.parametrize("character", ["x", "é", "😀"])
async def test_the_frame_size_is_limited_on_servers_that_do_not_limit_it(
    bff: RunningBff, settings: Settings, character: str
) -> None:
    """The limit is in bytes."""
    transport = RecordingTransport()
    caller = Caller("alice", "Alice", frozenset(), "", int(time.time()) + 60)
    handler = bff.engine.handlers.open(transport, caller)
    handler.receive(character * (settings.max_frame_bytes // len(character.encode())))
    assert transport.closed is None
    handler.receive(character * (settings.max_frame_bytes // len(character.encode()) + 1))
    assert transport.closed == (CloseCode.MESSAGE_TOO_BIG, "")
    bff.engine.handlers.on_closed(handler, CloseCode.ABNORMAL)


async def test_a_closed_connection_starts_no_requests(bff: RunningBff) -> None:
    """On a server that passes on what arrives after the close frame."""
    transport = RecordingTransport()
    caller = Caller("alice", "Alice", frozenset(), "", int(time.time()) + 60)
    handler = bff.engine.handlers.open(transport, caller)
    handler.start_receiving()
    handler.connection.close(CloseCode.SESSION_ENDED)
    handler.receive(json.dumps(call("slow", "now", "t")))
    assert not handler._tasks
    bff.engine.handlers.on_closed(handler, CloseCode.ABNORMAL)


async def test_refused_requests_are_counted(bff: RunningBff, browser: Browser) -> None:
    def refused(code: str) -> float:
        labels = {"code": code}
        sample = bff.engine.metrics.registry.get_sample_value("bff_frames_refused_total", labels)
        return sample or 0.0

    before = refused("conflict"), refused("not_found")
    await browser.send(call("slow", "wait", "t", params={"seconds": 60}))
    assert await code_of(browser, call("slow", "now", "t")) == "conflict"
    await browser.send({"type": "cancel", "payload": {"trace_id": "another"}})
    assert (await browser.receive())["payload"]["code"] == "not_found"
    assert (refused("conflict"), refused("not_found")) == (before[0] + 1, before[1] + 1)


class TestTheRateLimit:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_message_burst": 3, "max_messages_per_minute": 1})

    async def test_frames_are_refused_and_then_the_connection_is_closed(
        self, browser: Browser
    ) -> None:
        for _ in range(3):
            assert (await browser.request("slow", "now"))["error"] is None
        assert await code_of(browser, call("slow", "now", "t")) == "rate_limited"
        for number in range(300):
            await browser.send(call("slow", "now", f"{number}"))
        assert await browser.closed() == CloseCode.TOO_MANY_REQUESTS


async def test_frames_that_are_too_deep_count_towards_the_rate_limit(browser: Browser) -> None:
    params: Any = []
    for _ in range(40):
        params = [params]
    for number in range(310):
        await browser.send(call("slow", "now", f"{number}", params={"a": params}))
    assert await browser.closed() == CloseCode.TOO_MANY_REQUESTS


class TestAnExpiredToken:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"token_grace_seconds": 0.2})

    async def test_it_closes_the_connection_after_the_grace_time(self, bff: RunningBff) -> None:
        async with bff.browser(token=bff.token("alice", lifetime=3)) as browser:
            assert await browser.closed() == CloseCode.TOKEN_EXPIRED


async def test_requests_of_a_closed_connection_are_cancelled(bff: RunningBff) -> None:
    before = len(asyncio.all_tasks())
    async with bff.browser() as browser:
        await browser.send(call("slow", "wait", "t", params={"seconds": 1000}))
        await browser.request("slow", "now")
    await until(lambda: len(asyncio.all_tasks()) <= before)
