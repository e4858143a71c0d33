"""A service on the real nuropb 0.1.8 behind the BFF: requests, commands, errors, events."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from jose import jwt

from tests.e2e.browser import Browser
from tests.e2e.conftest import Admin, Connect, Person
from tests.e2e.deployment import Cluster
from tests.e2e.processes import Program
from tests.e2e.waiting import until

pytestmark = pytest.mark.usefixtures("nuropb_service")


async def test_a_request_is_answered(alices: list[Browser]) -> None:
    for browser in alices:
        answer = await browser.ask("demo", "add", {"a": 2, "b": 40}, trace_id="mine")
        assert answer == {"trace_id": "mine", "result": 42, "error": None}


async def test_values_come_through_unchanged(bobs: Browser) -> None:
    values = {"text": "Grüße 🎈", "list": [1, 2.5, None, True], "nested": {"a": {"b": []}}}
    assert (await bobs.ask("demo", "echo", values))["result"] == values


async def test_what_json_has_not_is_null(bobs: Browser) -> None:
    assert (await bobs.ask("demo", "odd"))["result"] == {"nan": None, "at": "2030-01-02Z"}


async def test_requests_of_one_socket_run_side_by_side(bobs: Browser) -> None:
    await bobs.say("request", service="demo", method="slow", params={"seconds": 1}, trace_id="slow")
    await bobs.ask("demo", "echo", {"n": 1})
    assert bobs.responses("slow") == []
    assert (await bobs.response("slow"))["error"] is None


async def test_the_service_sees_the_caller_and_no_context_from_the_browser(
    cluster: Cluster, alice: Person, alices: list[Browser]
) -> None:
    browser = alices[0]
    seen = (
        await browser.answered(
            "request",
            service="demo",
            method="context",
            params=None,
            trace_id="of-the-browser",
            context={"user_id": "root"},
        )
    )["result"]
    assert seen["user_id"] == alice.id
    assert seen["username"] == "alice"
    assert seen["session_id"] == browser.connection_id
    assert alice.token not in seen.values()
    claims = mesh_claims(cluster, seen["Authorization"])
    assert (claims["sub"], claims["sid"]) == (alice.id, browser.connection_id)
    assert seen["trace_id"] != "of-the-browser"


async def test_a_service_that_asks_nuropb_for_the_token_gets_one_made_for_the_call(
    cluster: Cluster, bob: Person, bobs: Browser
) -> None:
    token = (await bobs.ask("demo", "claims"))["result"]["token"]
    assert mesh_claims(cluster, token)["sub"] == bob.id


@pytest.mark.parametrize("method", ["fail", "fail_later"])
async def test_a_services_failure_is_a_service_error_and_shows_nothing_of_its_inside(
    bobs: Browser, method: str
) -> None:
    error = (await bobs.ask("demo", method))["error"]
    assert error["code"] == "service_error"
    assert error["outcome"] == "done"
    assert error["retryable"] is False
    assert not re.search("hunter2|RuntimeError|LookupError|password", str(bobs.frames))


async def test_errors_that_a_service_raises_on_purpose_reach_the_browser(bobs: Browser) -> None:
    error = (await bobs.ask("demo", "refuse"))["error"]
    assert error["code"] == "forbidden"
    assert error["description"] == "Only the owner may do this"


async def test_an_unknown_method_is_not_found(bobs: Browser) -> None:
    unknown_to_the_service = await bobs.ask("demo", "missing")
    not_exposed = await bobs.ask("demo", "nuropb_describe")
    assert unknown_to_the_service["error"]["code"] == "not_found"
    assert not_exposed["error"]["code"] == "not_found"


async def test_an_undeployed_service_is_unavailable_at_once(bobs: Browser) -> None:
    begun = time.monotonic()
    error = (await bobs.ask("undeployed", "anything"))["error"]
    assert time.monotonic() - begun < 5, "it took as long as a timeout"
    assert error["code"] == "service_unavailable"
    assert error["outcome"] == "not_sent"
    assert error["retryable"] is True


async def test_a_service_that_is_too_slow_is_a_timeout(bobs: Browser) -> None:
    error = (await bobs.ask("demo", "slow", {"seconds": 2}, timeout_ms=200))["error"]
    assert error["code"] == "timeout"
    assert error["outcome"] == "unknown"
    assert error["retryable"] is False


async def test_wrong_parameters_are_the_services_business(bobs: Browser) -> None:
    error = (await bobs.ask("demo", "add", {"a": 1}))["error"]
    assert error["code"] == "service_error"
    assert "add()" not in error["description"]


async def test_without_the_scope_nothing_is_called(
    cluster: Cluster, person: Callable[..., Person], connect: Connect
) -> None:
    browser = await connect(cluster.a, person("dave"))
    error = (await browser.ask("demo", "add", {"a": 1, "b": 1}))["error"]
    assert (error["code"], error["outcome"]) == ("forbidden", "not_sent")


async def test_the_second_reply_after_an_exception_is_ignored(
    cluster: Cluster, http: httpx2.AsyncClient, bobs: Browser
) -> None:
    """nuropb 0.1.8 answers twice after an exception, and after NuropbSuccess."""

    async def late() -> float:
        return await metric(http, cluster, "bff_mesh_late_replies_total")

    before = await late()
    await bobs.ask("demo", "fail", trace_id="failing")
    await bobs.ask("demo", "fail_later", trace_id="failing-later")

    async def both_were_dropped() -> bool:
        return await late() >= before + 2

    await until(both_were_dropped, "the second replies came and were dropped")
    assert (await bobs.ask("demo", "echo", {"n": 7}))["result"] == {"n": 7}
    assert len(bobs.responses("failing")) == len(bobs.responses("failing-later")) == 1


async def test_an_encrypted_method_of_a_real_service_is_called_encrypted(bobs: Browser) -> None:
    answer = await bobs.ask("demo", "secret", {"code": "4711"})
    assert answer["result"] == {"opened_with": "4711"}
    refused = (await bobs.ask("demo", "secret_refused"))["error"]
    assert (refused["code"], refused["description"]) == ("forbidden", "Only the owner may do this")


def test_the_doctor_sees_which_methods_ask_for_encryption(
    cluster: Cluster, nuropb_service: Program
) -> None:
    said = cluster.deployment.bff("doctor").stdout.splitlines()
    assert "ok   demo.secret requires encrypted calls" in said


async def test_a_command_is_accepted_and_carried_out(bobs: Browser) -> None:
    answer = await bobs.command("demo", "note", {"text": bobs.connection_id})
    assert answer["result"] == {"accepted": True}
    assert answer["error"] is None

    async def is_noted() -> bool:
        noted: list[str] = (await bobs.ask("demo", "noted"))["result"]
        return noted.count(bobs.connection_id) == 1

    await until(is_noted, "the service has carried out the command")
    refused = await bobs.command("undeployed", "anything")
    assert refused["error"]["code"] == "service_unavailable"


async def test_a_request_can_be_cancelled(bobs: Browser) -> None:
    await bobs.say("request", service="demo", method="slow", params={"seconds": 2}, trace_id="x")
    await bobs.say("cancel", trace_id="x")
    error = (await bobs.response("x"))["error"]
    assert (error["code"], error["outcome"]) == ("cancelled", "unknown")


async def test_a_late_reply_is_delivered_on_another_instance(
    cluster: Cluster, bob: Person, connect: Connect
) -> None:
    asking = await connect(cluster.a, bob)
    since = asking.hello["positions"]["user"]
    await asking.say(
        "request", service="demo", method="report", params={"seconds": 1}, trace_id="mine"
    )
    assert await asking.answers()
    await asking.close()
    later = await connect(cluster.b, bob, query=f"since={quote(since)}")
    kept = await later.event("result")
    assert kept["event"] == {"trace_id": "mine", "result": {"took": 1}, "error": None}
    once_more = await connect(cluster.a, bob, query=f"since={quote(since)}")
    assert await once_more.event("result") == kept


@pytest.mark.parametrize(("method", "result"), [("tell", "told"), ("finish", "finished")])
async def test_an_event_of_the_service_reaches_the_right_users_sockets_once_each(
    cluster: Cluster,
    admin: Admin,
    alice: Person,
    alices: list[Browser],
    bobs: Browser,
    method: str,
    result: str,
) -> None:
    event = {"user_id": alice.id, "text": f"by {method}"}
    assert (await bobs.ask("demo", method, event))["result"] == result
    for browser in alices:
        assert (await browser.event("demo.happened"))["event"] == event
    await admin.fence(cluster.a, *alices, bobs)
    assert [len(browser.events("demo.happened")) for browser in (*alices, bobs)] == [1, 1, 1, 0]
    assert len({browser.events("demo.happened")[0]["id"] for browser in alices}) == 1


async def test_a_method_of_an_added_feature_is_answered_here(
    alice: Person, alices: list[Browser], bobs: Browser
) -> None:
    answer = await bobs.ask("demo", "whisper", {"to": alice.id, "text": "psst"})
    assert answer["result"] == {"connections": 3}
    for browser in alices:
        event = (await browser.event("demo.whispered"))["event"]
        assert event == {"by": "BOB", "text": "psst", "length": 4}
    wrong = (await bobs.ask("demo", "whisper", {"to": "", "text": "psst"}))["error"]
    assert wrong["code"] == "invalid_params"
    assert wrong["description"].startswith("to:")


async def test_the_same_permissions_apply_over_http(
    cluster: Cluster, http: httpx2.AsyncClient, bob: Person
) -> None:
    async def rpc(path: str, params: dict[str, Any]) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {bob.token}"}
        return await http.post(f"{cluster.b.url}/rpc/{path}", json=params, headers=headers)

    assert (await rpc("demo/add", {"a": 1, "b": 2})).json() == 3
    for path, status, code in (
        ("demo/fail", 502, "service_error"),
        ("demo/missing", 404, "not_found"),
        ("demo/refuse", 403, "forbidden"),
        ("undeployed/anything", 503, "service_unavailable"),
        ("orders/list", 403, "forbidden"),
        ("nobody/nothing", 404, "not_found"),
    ):
        response = await rpc(path, {})
        assert (response.status_code, response.json()["code"]) == (status, code), path
        assert response.headers["content-type"] == "application/problem+json"
    own = await http.get(
        f"{cluster.a.url}/demo/sum",
        params={"a": 3, "b": 4},
        headers={"Authorization": f"Bearer {bob.token}"},
    )
    assert own.json() == {"sum": 7}


async def metric(http: httpx2.AsyncClient, cluster: Cluster, name: str) -> float:
    """A metric's value, summed over both instances."""
    total = 0.0
    for instance in (cluster.a, cluster.b):
        text = (await http.get(f"{instance.url}/metrics")).text
        found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        total += sum(float(value) for value in found)
    return total


def mesh_claims(cluster: Cluster, token: str) -> dict[str, Any]:
    """The claims of a mesh token, after its signature, audience and times were verified."""
    secret = cluster.deployment.mesh_secret
    return jwt.decode(token, secret, algorithms=["HS256"], audience="mesh")
