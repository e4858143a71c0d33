"""Which bodies are read as JSON, and by whom they may be sent."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from bff import problems
from bff.auth.caller import Caller
from bff.connections.messages import Call
from bff.endpoints import BffDep, CallerDep, JsonRoute, requires, rpc
from bff.endpoints.json_body import read_json_body
from bff.errors import Code, Problem
from bff.realtime.limits import TokenBuckets
from bff.settings import Settings
from bff.telemetry.metrics import Metrics
from fastapi import APIRouter, Depends, FastAPI, Request

BIG = 2**70
router = APIRouter(route_class=JsonRoute)


@router.post("/read")
async def read(request: Request, bff: BffDep) -> Any:
    return {"body": await read_json_body(request, bff.settings)}


@router.post("/public")
async def public(body: dict[str, Any]) -> Any:
    return {"body": body, "is_big": body.get("n") == BIG}


@router.post("/mine")
async def mine(body: dict[str, Any], caller: CallerDep) -> str:
    return caller.user_id


@router.post("/admin", dependencies=[Depends(requires("orders", "admin"))])
@router.get("/admin", dependencies=[Depends(requires("orders", "admin"))])
async def admin() -> None: ...


class Engine(SimpleNamespace):
    """What the endpoints need of the engine. Tokens are a user and scopes."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            settings=settings,
            authenticator=self,
            allowances=TokenBuckets(0.001, 3),
            audit=self,
            dispatcher=self,
        )
        self.metrics = Metrics()
        self.asked = 0
        self.recorded: list[dict[str, Any]] = []
        self.calls: list[Call] = []

    async def authenticate(self, request: Request) -> Caller:
        self.asked += 1
        user, *scopes = request.headers.get("authorization", "").split()[1:] or [""]
        if not user:
            raise Problem(Code.UNAUTHENTICATED)
        return Caller(user, user, frozenset(scopes), "", 2**31)

    def check_call(self, caller: Caller, service: str, method: str) -> None: ...

    async def call(self, caller: Caller, call: Call) -> Any:
        self.calls.append(call)
        return object() if call.params.get("text") == "no JSON" else {"by": caller.user_id}

    def record(self, action: str, **facts: Any) -> None:
        self.recorded.append({"action": action, **facts})


@pytest.fixture
def engine(settings: Settings) -> Engine:
    return Engine(settings.model_copy(update={"max_json_depth": 5, "max_json_keys": 5}))


@pytest.fixture
async def http(engine: Engine) -> AsyncIterator[httpx2.AsyncClient]:
    app = FastAPI()
    app.state.bff = engine
    problems.install(app)
    app.include_router(router)
    app.include_router(rpc.router)
    transport = httpx2.ASGITransport(app, client=("192.0.2.7", 1))
    async with httpx2.AsyncClient(transport=transport, base_url="http://bff") as client:
        yield client


def user(*words: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {' '.join(words)}"}


@pytest.mark.parametrize(
    ("kind", "is_read"),
    [
        ("application/json", True),
        ("Application/JSON; charset=utf-8", True),
        ("application/merge-patch+json", True),
        ("application/x-www-form-urlencoded", False),
        ("application/json-seq", False),
        ("text/json", False),
        ("text/plain", False),
        ("image/svg+json", False),
        ("json", False),
        ("", False),
    ],
)
async def test_a_body_is_read_if_its_type_needs_a_preflight(
    http: httpx2.AsyncClient, kind: str, is_read: bool
) -> None:
    """A page of another site may send the other types without asking."""
    answer = await http.post("/read", content=b'{"a": 1}', headers={"Content-Type": kind})
    assert answer.status_code == (200 if is_read else 422)
    assert answer.json().get("body") == ({"a": 1} if is_read else None)
    assert (await http.post("/read", headers={"Content-Type": kind})).json() == {"body": None}


@pytest.mark.parametrize("path", ["/read", "/public"])
async def test_a_body_keeps_to_the_limits_of_frames(http: httpx2.AsyncClient, path: str) -> None:
    headers = {"Content-Type": "application/json"}
    for good in (b'{"a": [[[1]]]}', b'{"n": %d}' % BIG):
        answer = await http.post(path, content=good, headers=headers)
        assert answer.status_code == 200, answer.text
    for bad in (b'{"a": [[[[[1]]]]]}', b'{"\xff": 1}', b'{"a": NaN}', b"{", many_keys()):
        answer = await http.post(path, content=bad, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_params"), bad
    answer = await http.post("/public", content=b'{"n": %d}' % BIG, headers=headers)
    assert answer.json()["is_big"] is True


def many_keys() -> bytes:
    return b"{" + b",".join(b'"%d": 1' % number for number in range(9)) + b"}"


@pytest.mark.parametrize(
    ("body", "query", "expected"),
    [
        (b'{"text": "hi"}', "?timeout_ms=50", ({"text": "hi"}, 50)),
        (b"{}", "", ({}, None)),
        (b"null", "", ({}, None)),
        (b"", "", ({}, None)),
        (b"[]", "", 422),
        (b"0", "", 422),
        (b"{}", "?timeout_ms=0", 422),
        (b'{"text": "no JSON"}', "", 502),
    ],
)
async def test_a_call_has_an_object_of_parameters_and_its_result_is_json(
    http: httpx2.AsyncClient, engine: Engine, body: bytes, query: str, expected: Any
) -> None:
    headers = {"Content-Type": "application/json"} | user("ann")
    answer = await http.post(f"/rpc/echo/say{query}", content=body, headers=headers)
    if isinstance(expected, tuple):
        assert (answer.status_code, answer.json()) == (200, {"by": "ann"})
        assert answer.headers["content-type"] == "application/json"
        (call,) = engine.calls
        assert (call.service, call.method) == ("echo", "say")
        assert (call.params, call.timeout_ms) == expected
    else:
        assert (answer.status_code, len(engine.calls)) == (expected, int(expected == 502))
    if expected == 502:
        assert (answer.json()["code"], answer.json()["outcome"]) == ("service_error", "done")


async def test_a_caller_is_checked_before_the_body_and_once(
    http: httpx2.AsyncClient, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Who is refused is told so, whatever the body is. Reading is no act of an administrator."""
    caplog.set_level(logging.INFO, "bff")
    headers = {"Content-Type": "application/json"}
    assert (await http.post("/public", content=b"{}", headers=headers)).status_code == 200
    assert engine.asked == 0
    for method, path, token, status, code, name in (
        ("POST", "/mine", user(), 401, "unauthenticated", None),
        ("GET", "/admin", user("ann", "orders"), 403, "forbidden", "ann"),
        ("POST", "/admin", user("bob", "admin"), 403, "forbidden", "bob"),
        ("POST", "/admin", user("carol", "orders"), 403, "forbidden", "carol"),
    ):
        caplog.clear()
        refused = await http.request(method, path, content=b"{", headers=headers | token)
        assert (refused.status_code, refused.json()["code"]) == (status, code)
        (line,) = [vars(one) for one in caplog.records if one.message == "request refused"]
        assert (line["code"], line["user"], line["address"]) == (code, name, "192.0.2.7")
        assert line["reason"] == refused.json()["detail"]
    assert engine.recorded == [
        {
            "action": "admin_request",
            "outcome": "refused",
            "actor": "carol",
            "address": "192.0.2.7",
            "method": "POST",
            "path": "/admin",
        }
    ]
    engine.asked, limited = 0, user("dave", "orders", "admin") | headers
    answers = [await http.post("/mine", content=b"{}", headers=limited) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert engine.asked == 4
    assert engine.metrics.registry.get_sample_value("bff_http_rate_limited_total") == 1
    assert [vars(one)["user"] for one in caplog.records][-1] == "dave"
