"""Exposed mesh methods: their options, limits per user, cancellation and late replies."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import pytest
from bff.auth.caller import Caller
from bff.connections.messages import Call
from bff.errors import Code, Problem
from bff.mesh.client import MeshClient
from bff.mesh.connect import connect_mesh
from bff.mesh.memory import MemoryBroker
from bff.mesh.messages import MeshRequest
from bff.mesh.service import Service
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings
from bff.telemetry.metrics import Metrics
from bff.testing import Browser, RunningBff, run, until
from fastapi import Depends
from pydantic import BaseModel, Field
from redis.exceptions import RedisError

from tests.engine.echo import create_app
from tests.engine.mesh.test_encryption import new_pem


class Amount(BaseModel):
    account: str
    amount: Annotated[int, Field(gt=0)]


class Bank:
    """A service that records its calls, and whose slow methods can be blocked."""

    def __init__(self) -> None:
        self.name = f"bank-{secrets.token_hex(4)}"
        self.service = service = Service(self.name, private_key=new_pem())
        self.calls: list[MeshRequest] = []
        self.told = 0
        self.unblock = asyncio.Event()
        for name in ("get_balance", "get_name", "put", "pay", "stopped", "checked"):
            service.add(name, self._record)
        service.add("slow", self._slow)
        service.add("slow_kept", self._slow)
        service.add("fail_kept", self._fail)

        @service.method("secret", encrypted=True)
        async def secret() -> str:
            self.told += 1
            return "a secret"

    async def _record(self, request: MeshRequest) -> Any:
        self.calls.append(request)
        return request.params

    async def _slow(self, request: MeshRequest) -> Any:
        self.calls.append(request)
        await self.unblock.wait()
        return {"slept": request.params}

    async def _fail(self, request: MeshRequest) -> Any:
        await self._slow(request)
        raise Problem(Code.CONFLICT, "Too late for that")

    def called(self, method: str) -> list[MeshRequest]:
        return [call for call in self.calls if call.method == method]


@pytest.fixture
def bank() -> Bank:
    return Bank()


async def _limit(mesh: MeshClient) -> int:
    limit: int = (await mesh.request(BANK[0], "put", {"limit": 10}))["limit"]
    return limit


BANK = [""]
"""The name of this test's bank, for functions that are declared before it exists."""


async def within_limit(
    params: Amount, caller: Caller, call: Call, limit: Annotated[int, Depends(_limit)]
) -> bool:
    if call.method == "pay" and params.account == "closed":
        raise Problem(Code.CONFLICT, "The account is closed")
    return params.account == caller.user_id and params.amount <= limit


async def returns_none() -> Any:
    return None


async def needs_redis(call: Call) -> bool:
    raise TimeoutError("Redis is slow") if "slow" in call.params else RedisError("Redis is down")


@pytest.fixture
async def bff(settings: Settings, bank: Bank) -> AsyncIterator[RunningBff]:
    BANK[0] = name = bank.name
    realtime = RealtimeRouter()
    realtime.expose(name, f"{name}-2", methods=["get_*"], scopes=["bank"])
    realtime.expose(name, methods=["get_name"], scopes=["other"])
    realtime.expose(name, methods=["pay"], params=Amount, check=within_limit)
    realtime.expose(name, methods=["put"], check=returns_none)
    realtime.expose(name, methods=["slow"], timeout=5, cancel_method="stopped")
    realtime.expose(name, methods=["*_kept"], keep_result=True, cancel_method="stopped")
    realtime.expose(name, methods=["secret"], encrypted=True)
    realtime.expose(name, methods=["checked"], check=needs_redis)
    settings = settings.model_copy(update={"max_requests_per_user": 3})
    broker = MemoryBroker()
    service = connect_mesh(settings.model_copy(update={"app_name": "x"}), broker=broker)
    service.add_service(bank.service)
    async with run(create_app(settings, realtime, broker=broker)) as running:
        await service.start()
        await until(lambda: service.status.connected and running.engine.mesh.status.connected)
        yield running
        bank.unblock.set()
        await service.stop()


def call(bank: Bank, method: str, trace_id: str, **payload: Any) -> dict[str, Any]:
    names = {"service": bank.name, "method": method, "trace_id": trace_id}
    return {"type": "request", "payload": names | payload}


async def code_of(browser: Browser, bank: Bank, method: str, **params: Any) -> str:
    error = (await browser.request(bank.name, method, **params))["error"]
    return str(error and error["code"])


# Options of `expose`


async def test_a_pattern_exposes_matching_methods_only(bff: RunningBff, bank: Bank) -> None:
    async with bff.browser("alice", ["bank"]) as alice:
        assert (await alice.request(bank.name, "get_balance"))["error"] is None
        assert await code_of(alice, bank, "get_nothing") == "not_found"
        assert await code_of(alice, bank, "balance_get_") == "not_found"
        assert await code_of(alice, bank, "nuropb_describe") == "not_found"
    async with bff.browser("bob", []) as bob:
        assert await code_of(bob, bank, "get_balance") == "forbidden"


async def test_an_exact_name_takes_precedence_over_a_pattern(bff: RunningBff, bank: Bank) -> None:
    async with bff.browser("alice", ["bank"]) as alice:
        assert await code_of(alice, bank, "get_name") == "forbidden"
    async with bff.browser("bob", ["other"]) as bob:
        assert (await bob.request(bank.name, "get_name"))["error"] is None


def test_a_pattern_never_matches_private_or_reserved_methods() -> None:
    realtime = RealtimeRouter()
    realtime.expose("a", methods=["*"])
    assert realtime.find("a", "anything") is not None
    for service, method in (("a", "_x"), ("a", "nuropb_describe"), ("b", "anything")):
        assert realtime.find(service, method) is None


@pytest.mark.parametrize(
    ("service", "method"), [("a b", "m"), ("", "m"), ("a", "m[ab]"), ("a", "")]
)
def test_invalid_names_are_refused_at_declaration(service: str, method: str) -> None:
    with pytest.raises(ValueError, match=r"is not a (service|method) name"):
        RealtimeRouter().expose(service, methods=[method])


def test_a_check_with_another_model_is_refused() -> None:
    with pytest.raises(TypeError, match="another model"):
        RealtimeRouter().expose("a", methods=["m"], params=BaseModel, check=within_limit)


async def test_a_call_needs_a_check_that_returns_true(bff: RunningBff, bank: Bank) -> None:
    async with bff.browser("alice", []) as alice:
        pay = await alice.request(bank.name, "pay", account="alice", amount=5, more=1)
        assert pay["result"] == {"account": "alice", "amount": 5}
        assert await code_of(alice, bank, "pay", account="alice", amount=11) == "forbidden"
        assert await code_of(alice, bank, "pay", account="bob", amount=5) == "forbidden"
        assert await code_of(alice, bank, "pay", account="closed", amount=5) == "conflict"
        assert await code_of(alice, bank, "put") == "forbidden"
    assert len(bank.called("pay")) == 1


@pytest.mark.parametrize("params", [{}, {"slow": True}])
async def test_a_check_that_meets_a_dead_redis_says_so_and_nothing_is_sent(
    bff: RunningBff, bank: Bank, params: dict[str, Any]
) -> None:
    async with bff.browser("alice", []) as alice:
        error = (await alice.request(bank.name, "checked", **params))["error"]
    assert (error["code"], error["outcome"]) == ("service_unavailable", "not_sent")
    assert "Redis" not in error["description"]
    assert bank.calls == []


async def test_invalid_parameters_are_not_sent_to_the_mesh(bff: RunningBff, bank: Bank) -> None:
    async with bff.browser("alice", []) as alice:
        error = (await alice.request(bank.name, "pay", account="alice", amount=0))["error"]
    assert (error["code"], error["outcome"]) == ("invalid_params", "not_sent")
    assert error["description"].startswith("amount")
    assert bank.calls == []


async def test_an_exposed_method_can_be_called_encrypted(bff: RunningBff, bank: Bank) -> None:
    async with bff.browser("alice", []) as alice:
        assert (await alice.request(bank.name, "secret"))["result"] == "a secret"


async def test_a_command_is_accepted_when_it_is_on_its_way_to_its_service(
    bff: RunningBff, bank: Bank
) -> None:
    """It is checked, encrypted and made for its user as a request is, and has no result."""
    async with bff.browser("alice", []) as alice:
        for method, params in (("slow", {"n": 1}), ("secret", {})):
            frame = call(bank, method, method, params=params) | {"type": "command"}
            answer = await alice.ask(frame)
            assert (answer["error"], answer["result"]) == (None, {"accepted": True})
        await until(lambda: bool(bank.called("slow")) and bank.told == 1)
        frame = call(bank, "pay", "pay", params={"account": "bob", "amount": 5})
        assert await alice.ask(frame | {"type": "command"}) == await alice.ask(frame)
    (slow,) = bank.called("slow")
    assert slow.params == {"n": 1}
    assert slow.context["user_id"] == "alice"
    assert bank.called("pay") == bank.called("stopped") == []


async def test_a_browser_can_shorten_a_timeout_but_not_extend_it(
    settings: Settings, bff: RunningBff, bank: Bank
) -> None:
    dispatcher = bff.engine.dispatcher
    target = dispatcher._router.find(bank.name, "slow")
    assert target is not None
    for wanted, given in ((None, 5.0), (1000, 1.0), (60_000, 5.0)):
        asked = Call(service=bank.name, method="slow", timeout_ms=wanted)
        assert dispatcher._timeout(asked, target) == given


# Limits


async def test_running_requests_are_limited_per_user(bff: RunningBff, bank: Bank) -> None:
    async with bff.browser("alice", ["bank"]) as one, bff.browser("alice", ["bank"]) as two:
        for number in range(3):
            await one.send(call(bank, "slow", f"slow-{number}"))
        await until(lambda: len(bank.called("slow")) == 3)
        assert await code_of(two, bank, "get_balance") == "too_many_in_flight"
        async with bff.browser("bob", ["bank"]) as bob:
            assert await code_of(bob, bank, "get_balance") == "None"
        bank.unblock.set()
        for _ in range(3):
            await one.receive()
        assert await code_of(two, bank, "get_balance") == "None"


# Cancellation and late replies


async def test_a_cancelled_call_ends_at_once_and_its_service_is_notified_without_a_token(
    bff: RunningBff, bank: Bank
) -> None:
    async with bff.browser("alice", []) as alice:
        await alice.send(call(bank, "slow", "s"))
        await until(lambda: bool(bank.called("slow")))
        answer = await alice.ask({"type": "cancel", "payload": {"trace_id": "s"}})
        assert answer["error"]["code"] == "cancelled"
        await until(lambda: bool(bank.called("stopped")))
    (notified,), (called,) = bank.called("stopped"), bank.called("slow")
    assert notified.params == {"trace_id": called.trace_id}
    assert notified.context == {"user_id": "alice", "trace_id": notified.trace_id}


async def test_the_service_is_notified_when_the_connection_closes(
    bff: RunningBff, bank: Bank
) -> None:
    async with bff.browser("alice", []) as alice:
        await alice.send(call(bank, "slow", "s"))
        await until(lambda: bool(bank.called("slow")))
    await until(lambda: bool(bank.called("stopped")))
    await until(lambda: not bff.engine.mesh._pending_requests._replies)


@pytest.mark.parametrize("method", ["slow_kept", "fail_kept"])
async def test_a_late_reply_comes_as_an_event_after_the_timeout(
    bff: RunningBff, bank: Bank, method: str
) -> None:
    async with bff.browser("alice", []) as alice:
        answer = await alice.ask(call(bank, method, "k", params={"n": 1}, timeout_ms=50))
        assert (answer["error"]["code"], answer["error"]["outcome"]) == ("timeout", "unknown")
        bank.unblock.set()
        kept = await alice.event("result")
    assert kept["id"].startswith("user/")
    event = kept["event"]
    assert event["trace_id"] == "k"
    if method == "slow_kept":
        assert (event["result"], event["error"]) == ({"slept": {"n": 1}}, None)
    else:
        assert (event["result"], event["error"]["code"]) == (None, "conflict")
    assert bank.called("stopped") == []


async def test_a_late_reply_comes_after_a_reconnect(
    bff: RunningBff, bank: Bank, settings: Settings
) -> None:
    """On any instance: the reply is in the user's stream in Redis."""
    async with bff.browser("alice", []) as alice:
        await alice.send(call(bank, "slow_kept", "k", params={"n": 1}))
        await until(lambda: bool(bank.called("slow_kept")))
    async with bff.browser("alice", []) as again:
        bank.unblock.set()
        kept = (await again.event("result"))["event"]
    assert kept == {"trace_id": "k", "result": {"slept": {"n": 1}}, "error": None}


async def test_the_reply_to_a_cancelled_call_is_dropped(bff: RunningBff, bank: Bank) -> None:
    async with bff.browser("alice", []) as alice:
        await alice.send(call(bank, "slow_kept", "k"))
        await until(lambda: bool(bank.called("slow_kept")))
        await alice.ask({"type": "cancel", "payload": {"trace_id": "k"}})
        await until(lambda: bool(bank.called("stopped")))
        bank.unblock.set()
        await alice.request(bank.name, "secret")  # its reply follows that of the cancelled call
        await bff.engine.messenger.to_user("alice", "fence", None)
        await alice.event("fence")
        assert alice.passed_over() == []


async def test_a_late_reply_that_never_comes_is_reported_as_an_error(
    settings: Settings, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Problem | None] = []
    broker = MemoryBroker()
    broker.serve(bank.service)
    quick = settings.model_copy(update={"keep_result_seconds": 0.05, "amqp_url": "memory://"})
    mesh = connect_mesh(quick, Metrics(), broker=broker)
    await mesh.start()

    async def time_out() -> None:
        with pytest.raises(Problem):
            await mesh.request(
                bank.name,
                "slow",
                {},
                timeout=0.05,
                late=lambda _, problem: reported.append(problem),
            )

    await time_out()
    await until(lambda: len(reported) == 1)
    mesh._pending_requests._settings = settings  # which keep a result for longer
    await time_out()
    broker.interrupt()
    await until(lambda: len(reported) == 2)
    await mesh.stop()
    assert [problem and problem.code for problem in reported] == [
        Code.TIMEOUT,
        Code.MESH_UNAVAILABLE,
    ]
    assert not mesh._pending_requests._late_requests


async def test_a_stopping_instance_reports_late_replies_as_errors(
    bff: RunningBff, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parts stop after it has stored them, however long Redis takes."""
    reported: list[Any] = []
    cluster = bff.engine.cluster
    stop, stopped_after = cluster.stop, list[int]()

    async def record(self: Any, user_id: str, topic: str, event: Any, **more: Any) -> None:
        await asyncio.sleep(0.3)
        reported.append((user_id, topic, event))

    async def stop_cluster() -> None:
        stopped_after.append(len(reported))
        await stop()

    monkeypatch.setattr(type(bff.engine.messenger), "to_user", record)
    monkeypatch.setattr(cluster, "stop", stop_cluster)
    async with bff.browser("alice", []) as alice:
        await alice.send(call(bank, "slow_kept", "k"))
        await until(lambda: bool(bank.called("slow_kept")))
    bff.server.should_exit = True
    await until(lambda: bool(stopped_after))
    assert stopped_after == [1]
    ((user_id, topic, event),) = reported
    assert (user_id, topic, event["trace_id"]) == ("alice", "result", "k")
    assert (event["error"]["code"], event["error"]["outcome"]) == ("mesh_unavailable", "unknown")


async def test_a_late_reply_is_retried_while_redis_is_unavailable(
    bff: RunningBff, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    messenger = bff.engine.messenger
    to_user, failures = messenger.to_user, [ConnectionError("gone"), ConnectionError("gone")]

    async def flaky(*args: Any, **more: Any) -> Any:
        if failures:
            raise failures.pop()
        return await to_user(*args, **more)

    monkeypatch.setattr(
        type(messenger), "to_user", lambda self, *args, **more: flaky(*args, **more)
    )
    async with bff.browser("alice", []) as alice:
        await alice.ask(call(bank, "slow_kept", "k", timeout_ms=50))
        bank.unblock.set()
        assert (await alice.event("result"))["event"]["trace_id"] == "k"


@pytest.mark.parametrize(
    "declare",
    [
        lambda router: router.expose("orders", methods="get_*"),
        lambda router: router.expose("orders", methods=["get"], scopes="orders"),
        lambda router: router.method("orders.get", scopes="orders"),
        lambda router: router.topic("orders.*", scopes="orders"),
    ],
)
def test_a_text_in_place_of_a_list_is_refused(declare: Callable[[RealtimeRouter], Any]) -> None:
    """Its characters would count: `*` exposes every method."""
    with pytest.raises(TypeError, match="is a text: write"):
        declare(RealtimeRouter())
