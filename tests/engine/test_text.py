"""Any text in frames, event streams, `/rpc`, admin routes, tokens and mesh methods.

What is accepted is the same everywhere, and comes out as it went in. What is not is refused with
`invalid_params`. `cluster/test_any_text.py` has the same for `Messenger` and two instances.
"""

from __future__ import annotations

import json
import logging
import time
import unicodedata
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import pytest
from bff.auth.caller import Caller
from bff.auth.mesh_context import mesh_context
from bff.connections.positions import Position, parse_cursor
from bff.errors import Code, Problem
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings
from bff.telemetry.logs import JsonFormatter, TextFormatter
from bff.testing import RunningBff, run
from bff.testing.clients import Browser
from pydantic import BaseModel

from tests.engine.any_text import every_example, is_text, is_topic
from tests.engine.connections.test_json_reader import REFUSED, TRACE_ID, frame
from tests.engine.echo import create_app

ADMIN = ("admin",)

realtime = RealtimeRouter()


class Unencodable(BaseModel):
    value: Any


@realtime.method("text.echo")
async def echo(caller: Caller) -> str:
    return caller.user_id


@realtime.method("text.set")
async def unencodable_set() -> Any:
    return {"set": {1, 2}}


@realtime.method("text.half")
async def half_a_character() -> Any:
    return ["nice \ud83d"]


@realtime.method("text.number")
async def unencodable_number() -> Any:
    return [Decimal(1), 2**64]


@realtime.method("text.model")
async def unencodable_model() -> Unencodable:
    return Unencodable(value=object())


@realtime.method("text.half_model")
async def half_model() -> Unencodable:
    return Unencodable(value="\ud83d")


@realtime.method("text.half_problem")
async def half_problem() -> Any:
    raise Problem(Code.CONFLICT, "half \ud83d")


@realtime.topic("#")
async def everybody_may() -> bool:
    return True


@pytest.fixture
def settings(settings: Settings) -> Settings:
    changed = {"max_messages_per_minute": 10**6, "max_message_burst": 10**6}
    return settings.model_copy(update=changed)


@pytest.fixture
async def bff(settings: Settings) -> AsyncIterator[RunningBff]:
    async with run(create_app(settings, realtime)) as running:
        yield running


@pytest.fixture
async def browser(bff: RunningBff) -> AsyncIterator[Browser]:
    async with bff.browser("alice") as connected:
        yield connected


async def asked(browser: Browser, kind: str, **payload: Any) -> Any:
    """`ok`, or the code of the error."""
    answer = await browser.ask({"type": kind, "payload": {"trace_id": "t", **payload}})
    return "ok" if answer["error"] is None else answer["error"]["code"]


async def called_on_mesh(bff: RunningBff, method: str, **params: Any) -> str:
    try:
        await bff.engine.mesh.request(bff.settings.app_name, method, params)
    except Problem as problem:
        return problem.code
    return "ok"


# The same decision everywhere


@every_example
async def test_topics_and_event_names(bff: RunningBff, browser: Browser, text: str) -> None:
    subscribed = "ok" if is_topic(text) else "invalid_params"
    assert await asked(browser, "subscribe", topics=[{"topic": text}]) == subscribed
    assert await asked(browser, "unsubscribe", topics=[text]) == subscribed
    if text and "," not in text and "\ud83d" not in text and text.isprintable():
        async with bff.event_stream(
            {"Authorization": f"Bearer {bff.token('alice')}"}, topics=text
        ) as source:
            assert source.response.status_code == (200 if is_topic(text) else 422)
    if not any(unicodedata.category(character) == "Cs" for character in text):
        assert await called_on_mesh(bff, "send_to_topic", topic=text) == subscribed
        sent = "ok" if is_text(text, 255) else "invalid_params"
        assert await called_on_mesh(bff, "broadcast", topic=text) == sent
        assert await called_on_mesh(bff, "send_to_users", user_ids=["bob"], topic=text) == sent
    status = 201 if is_text(text, 255) else 422
    async with bff.http("carol", ADMIN) as http:
        body = json.dumps({"audience": "users", "user_ids": ["bob"], "topic": text, "event": {}})
        headers = {"Content-Type": "application/json"}
        created = await http.post("/admin/broadcasts", content=body, headers=headers)
    assert created.status_code == status
    assert status == 422 or created.json()["topic"] == text


@every_example
async def test_user_ids(bff: RunningBff, text: str) -> None:
    valid = is_text(text, 128)
    claims = {"sub": text, "exp": time.time() + 60}
    if valid:
        assert Caller.from_claims(claims).user_id == text
    else:
        with pytest.raises(Problem):
            Caller.from_claims(claims)
    if any(unicodedata.category(character) == "Cs" for character in text):
        return
    expected = "ok" if valid else "invalid_params"
    assert await called_on_mesh(bff, "presence", user_ids=[text]) == expected
    assert await called_on_mesh(bff, "disconnect_users", user_ids=[text]) == expected
    if text in (".", ".."):
        return  # clients resolve them as RFC 3986 requires
    path = f"/admin/users/{quote(text, safe='')}/connections"
    async with bff.http("carol", ADMIN) as http:
        for method in ("GET", "DELETE"):
            response = await http.request(method, path)
            assert response.status_code in ((200, 202) if valid else (422,))


@every_example
async def test_services_and_methods(bff: RunningBff, browser: Browser, text: str) -> None:
    over_socket = await asked(browser, "request", service=text, method="x")
    assert await asked(browser, "request", service="x", method=text) == over_socket
    name = text.replace(".", "")
    assert over_socket in ("not_found", "invalid_params")
    if not name or "/" in text or any(unicodedata.category(one) == "Cs" for one in text):
        return
    async with bff.http() as http:
        response = await http.post(f"/rpc/{quote(text, safe='')}/x")
    assert response.json()["code"] == over_socket


@every_example
async def test_trace_ids(browser: Browser, text: str) -> None:
    call = {"service": "text", "method": "echo", "trace_id": text}
    await browser.send({"type": "request", "payload": call})
    answer = (await browser.receive())["payload"]
    if is_text(text, 128):
        assert (answer["trace_id"], answer["result"]) == (text, "alice")
    else:
        assert answer["error"]["code"] == "invalid_params"
        is_repeated = len(text) <= 128 and not any(
            unicodedata.category(one) == "Cs" for one in text
        )
        assert answer["trace_id"] == (text if is_repeated else None)


@every_example
def test_positions(text: str) -> None:
    position = f"topic:{text}/9f/7"
    if is_topic(text):
        assert parse_cursor(position) == {f"topic:{text}": Position("9f", 7)}
    else:
        with pytest.raises(ValueError, match="position"):
            parse_cursor(position)


# It comes out as it went in


@pytest.mark.parametrize("text", ['say-"hi"', "a\\b", "a}:b{%", "a/b/1", "topic:é😀", "<&#*.?"])
async def test_over_sockets_event_streams_and_admin_routes(bff: RunningBff, text: str) -> None:
    messenger = bff.engine.messenger
    async with bff.browser(text) as browser, bff.events(text, topics=text) as source:
        assert browser.hello["user_id"] == text
        assert await browser.subscribe(text) == await browser.subscribe(text)
        first = await messenger.to_topic(text, {text: text})
        expected = {"topic": text, "event": {text: text}, "id": first}
        assert await browser.event(text) == expected
        assert await source.event(text) == expected
        cursor = source.last_event_id
        assert first in cursor
        second = await messenger.to_topic(text, 2)
        again = await browser.subscribe(text, **{text: first})
        assert again["result"]["recovered"] == {f"topic:{text}": True}
        async with bff.events(text, last_event_id=cursor, topics=text) as resumed:
            assert (await resumed.event(text))["id"] == second
        to_user = await messenger.to_user(text, "u", text)
        assert (await browser.event("u"))["id"] == to_user.id
        async with bff.http("carol", ADMIN) as http:
            path = f"/admin/users/{quote(text, safe='')}/connections"
            listed = {one["connection_id"] for one in (await http.get(path)).json()}
            assert {browser.hello["session_id"], source.hello["session_id"]} <= listed
            assert (await http.delete(path)).status_code == 202
        assert await browser.closed() == 4504
        assert await source.closed() == 4504


def test_scopes_that_services_would_read_differently_are_dropped(settings: Settings) -> None:
    listed = ["orders", "x admin", "\ud83d", "a\tb", "", "é", 5]
    claims = {"sub": "alice", "exp": time.time() + 60}
    caller = Caller.from_claims({**claims, "scopes": listed})
    assert caller.scopes == {"orders", "é"}
    assert mesh_context(caller, settings)["user_id"] == "alice"
    assert Caller.from_claims({**claims, "scope": "a b \ud83d"}).scopes == {"a", "b"}


# JSON


@pytest.mark.parametrize("params", REFUSED.values(), ids=REFUSED)
async def test_json_is_read_by_the_same_rules_over_sockets_and_http(
    bff: RunningBff, browser: Browser, params: str
) -> None:
    await browser.send(frame(params))
    answer = await browser.receive()
    assert answer["type"] == "response"
    assert answer["payload"]["trace_id"] == TRACE_ID
    assert answer["payload"]["error"]["code"] == "invalid_params"
    headers = {"Content-Type": "application/json"}
    broadcast = f'{{"audience":"all","topic":"t","event":{{"a":{params}}}}}'
    async with bff.http("carol", ADMIN) as http:
        for path, body in (("/rpc/text/echo", params), ("/admin/broadcasts", broadcast)):
            response = await http.post(path, content=body, headers=headers)
            assert response.status_code == 422
            assert response.json()["code"] == "invalid_params"
            assert len(response.json()["detail"]) > 15


async def test_frames_with_invalid_content_are_not_bad_frames(browser: Browser) -> None:
    for _ in range(15):
        for text in (frame(REFUSED["half a surrogate pair"]), frame(REFUSED["deeper"])):
            await browser.send(text)
            assert (await browser.receive())["payload"]["trace_id"] == TRACE_ID
        await browser.send('{"type":"ping","payload":{"trace_id":"\\ud83d"}}')
        assert (await browser.receive())["type"] == "error"
    assert await asked(browser, "request", service="text", method="echo") == "ok"


@pytest.mark.parametrize("method", ["set", "half", "number", "model", "half_model"])
async def test_a_result_that_is_not_json_is_a_service_error(
    bff: RunningBff, browser: Browser, method: str
) -> None:
    answer = await browser.request("text", method)
    assert (answer["error"]["code"], answer["error"]["outcome"]) == ("service_error", "done")
    async with bff.http() as http:
        response = await http.post(f"/rpc/text/{method}")
    assert response.status_code == 502
    assert (response.json()["code"], response.json()["outcome"]) == ("service_error", "done")


async def test_an_error_with_half_a_character_is_answered(
    bff: RunningBff, browser: Browser
) -> None:
    answer = await browser.request("text", "half_problem")
    assert (answer["error"]["code"], answer["error"]["description"]) == ("conflict", "half ?")
    async with bff.http() as http:
        assert (await http.post("/rpc/text/half_problem")).json()["detail"] == "half ?"


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        ("", None, 200),
        ("null", "application/json", 200),
        ("{}", "application/json; charset=utf-8", 200),
        ("{}", "application/vnd.api+json", 200),
        ("{}", "text/plain", 422),
        ("{}", "text/json", 422),
        ("{}", "text/vnd.api+json", 422),
        ("{}", "application/x-json", 422),
        ("{}", None, 422),
        ("[]", "application/json", 422),
        ("not JSON", "application/json", 422),
        (b"\xff", "application/json", 422),
        (b"{}" + b" " * 300_000, "application/json", 413),
    ],
)
async def test_the_body_of_a_call(
    bff: RunningBff, body: str | bytes, content_type: str | None, status: int
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    async with bff.http() as http:
        response = await http.post("/rpc/text/echo", content=body, headers=headers)
        assert response.status_code == status
        unknown = await http.post(
            "/rpc/text/echo", content=body, headers={**headers, "Authorization": "Bearer x"}
        )
        assert unknown.status_code == (413 if status == 413 else 401)


async def test_the_openapi_document_has_the_body_of_a_call(bff: RunningBff) -> None:
    operation = bff.app.openapi()["paths"]["/rpc/{service}/{method}"]["post"]
    assert "application/json" in operation["requestBody"]["content"]


# Log lines


@pytest.mark.parametrize("text", ["\ud83d", "a\nINFO forged", 2**70, "\x1b[2J"])
def test_every_value_can_be_logged_on_one_line(text: object) -> None:
    record = logging.makeLogRecord({"msg": "stable", "levelname": "INFO", "topic": text})
    for formatter in (JsonFormatter(), TextFormatter()):
        line = formatter.format(record)
        assert "\n" not in line
        assert line.encode().isascii()
    assert json.loads(JsonFormatter().format(record))["topic"] == text
