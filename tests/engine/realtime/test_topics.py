"""Topics and catch-up, tested with a client, on `bff serve` and on another ASGI server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from bff.auth.caller import Caller
from bff.cluster.messenger import Messenger
from bff.connections.close_codes import CloseCode
from bff.errors import Code, Problem
from bff.realtime.declarations import Topic
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings
from bff.testing import Browser, RunningBff, run, until

from tests.engine.echo import create_app

realtime = RealtimeRouter()


@realtime.topic("prices.#", scopes=["prices"])
async def may_see_prices(caller: Caller) -> bool:
    return caller.user_id != "mallory"


@realtime.topic("orders.*")
async def may_see_orders(topic: Topic, caller: Caller) -> bool:
    return topic == f"orders.{caller.user_id}"


@realtime.topic("broken")
async def broken() -> bool:
    raise RuntimeError("s3cr3t internal detail")


@realtime.topic("sloppy")
async def sloppy() -> str:
    return "yes"


@realtime.topic("gate.*")
async def behind_the_gate() -> bool:
    gate.calls += 1
    await gate.opened.wait()
    return True


class Gate:
    """Blocks a topic policy until it is opened."""

    def __init__(self) -> None:
        self.calls = 0
        self.opened = asyncio.Event()


gate = Gate()


@pytest.fixture(autouse=True)
def closed_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "gate", Gate())


@realtime.topic("deprecated.*")
async def deprecated() -> bool:
    raise Problem(Code.DEPRECATED, "Take prices.*")


@pytest.fixture(params=[None, "websockets-sansio"], ids=["detached", "asgi"])
async def bff(request: pytest.FixtureRequest, settings: Settings) -> AsyncIterator[RunningBff]:
    """Once on `bff serve`, once on another ASGI server."""
    async with run(create_app(settings, realtime), ws=request.param) as running:
        yield running


@pytest.fixture
async def alice(bff: RunningBff) -> AsyncIterator[Browser]:
    async with bff.browser("alice", ["prices"]) as browser:
        yield browser


@pytest.fixture
def messenger(bff: RunningBff) -> Messenger:
    sender: Messenger = bff.engine.messenger
    return sender


async def test_a_subscriber_gets_the_messages_of_a_topic(
    alice: Browser, messenger: Messenger
) -> None:
    answer = await alice.subscribe("prices.tea.green", "orders.alice")
    assert answer["error"] is None
    assert set(answer["result"]["positions"]) == {"topic:prices.tea.green", "topic:orders.alice"}
    assert answer["result"]["recovered"] == {}
    sent = await messenger.to_topic("prices.tea.green", {"price": 3})
    assert await alice.receive() == {
        "type": "event",
        "payload": {"topic": "prices.tea.green", "event": {"price": 3}, "id": sent},
    }


@pytest.mark.parametrize(
    ("topic", "code"),
    [
        ("weather", "not_found"),
        ("prices", None),
        ("orders.bob", "forbidden"),
        ("orders.alice.more", "not_found"),
        ("broken", "internal"),
        ("sloppy", "forbidden"),
        ("deprecated.x", "deprecated"),
        ("two words", "invalid_params"),
        ("a,b", "invalid_params"),
    ],
)
async def test_a_topic_needs_a_policy_that_allows_it(
    alice: Browser, topic: str, code: str | None
) -> None:
    answer = await alice.subscribe(topic)
    assert (answer["error"] and answer["error"]["code"]) == code
    assert "s3cr3t" not in str(answer)


async def test_a_missing_scope_is_forbidden(bff: RunningBff) -> None:
    async with bff.browser("alice", []) as browser:
        assert (await browser.subscribe("prices.tea"))["error"]["code"] == "forbidden"


async def test_one_forbidden_topic_fails_the_whole_subscribe(
    alice: Browser, messenger: Messenger
) -> None:
    answer = await alice.subscribe("prices.tea", "orders.bob")
    assert answer["error"]["code"] == "forbidden"
    await messenger.to_topic("prices.tea", 1)
    await messenger.to_user("alice", "marker", None)
    assert (await alice.receive())["payload"]["topic"] == "marker"


async def test_missed_messages_follow_the_subscribe_response(
    alice: Browser, messenger: Messenger
) -> None:
    ids = [await messenger.to_topic("prices", number) for number in range(4)]
    answer = await alice.subscribe("prices", prices=ids[0])
    assert answer["result"] == {
        "positions": {"topic:prices": ids[-1]},
        "recovered": {"topic:prices": True},
    }
    assert [(await alice.event("prices"))["event"] for _ in range(3)] == [1, 2, 3]


async def test_a_position_in_another_stream_is_invalid(alice: Browser) -> None:
    answer = await alice.subscribe("prices", prices="topic:other/abc/1")
    assert answer["error"]["code"] == "invalid_params"


async def test_no_messages_come_after_unsubscribe(alice: Browser, messenger: Messenger) -> None:
    await alice.subscribe("prices")
    frame = {"type": "unsubscribe", "payload": {"topics": ["prices"], "trace_id": "u"}}
    assert await alice.ask(frame) == {"trace_id": "u", "result": {}, "error": None}
    await messenger.to_topic("prices", 1)
    await messenger.to_user("alice", "marker", None)
    assert (await alice.receive())["payload"]["topic"] == "marker"


def subscription(topic: str, trace_id: str) -> dict[str, Any]:
    return {"type": "subscribe", "payload": {"topics": [{"topic": topic}], "trace_id": trace_id}}


@pytest.mark.parametrize("side", ["client", "server"])
async def test_unsubscribing_while_the_policy_runs_cancels_the_subscribe(
    alice: Browser, messenger: Messenger, side: str
) -> None:
    await alice.send(subscription("gate.x", "s"))
    await until(lambda: gate.calls == 1)
    if side == "client":
        frame = {"type": "unsubscribe", "payload": {"topics": ["gate.x"], "trace_id": "u"}}
        await alice.ask(frame)
    else:
        await messenger.unsubscribe("alice", "gate.x")
        await alice.event("unsubscribed")
    gate.opened.set()
    assert (await alice.answer("s"))["error"]["code"] == "cancelled"
    await messenger.to_topic("gate.x", 1)
    await messenger.to_user("alice", "end", None)
    await alice.event("end")
    assert not [one for one in alice.passed_over() if one["payload"].get("topic") == "gate.x"]


async def test_a_token_with_fewer_scopes_unsubscribes_from_topics(
    bff: RunningBff, alice: Browser, messenger: Messenger
) -> None:
    await alice.subscribe("prices.tea", "orders.alice")
    token = {"token": bff.token("alice", []), "trace_id": "a"}
    assert (await alice.ask({"type": "authenticate", "payload": token}))["error"] is None
    assert (await alice.event("unsubscribed"))["event"] == {"topics": ["prices.tea"]}
    await messenger.to_topic("prices.tea", 1)
    await messenger.to_topic("orders.alice", 2)
    assert (await alice.receive())["payload"]["topic"] == "orders.alice"


class TestRunningPolicies:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_requests_per_user": 2})

    async def test_they_count_as_requests_of_the_user(
        self, bff: RunningBff, alice: Browser
    ) -> None:
        for number in range(2):
            await alice.send(subscription(f"gate.{number}", f"{number}"))
        await until(lambda: gate.calls == 2)
        headers = {"Authorization": f"Bearer {bff.token('alice')}"}
        async with bff.event_stream(headers, topics="gate.3") as source:
            assert await source.closed() == CloseCode.TOO_MANY_REQUESTS
        gate.opened.set()
        for number in range(2):
            assert (await alice.answer(f"{number}"))["error"] is None

    async def test_they_count_only_while_they_run(self, alice: Browser) -> None:
        for _ in range(5):
            assert (await alice.subscribe("orders.alice"))["error"] is None
            error = (await alice.subscribe("prices.tea", "nothing.here"))["error"]
            assert error["code"] in ("not_found", "forbidden")


async def test_two_policies_for_one_pattern_are_an_error() -> None:
    other = RealtimeRouter()
    other.include(realtime)
    with pytest.raises(ValueError, match="twice"):
        other.include(realtime)


# Catch-up


async def test_missed_messages_follow_the_hello_after_a_reconnect(
    bff: RunningBff, messenger: Messenger
) -> None:
    async with bff.browser("alice") as before:
        positions = before.hello["positions"]
    user = [await messenger.to_user("alice", "news", number) for number in range(3)]
    everybody = await messenger.to_all("news", "to all")
    query = f"?since={positions['user']},{positions['all']}"
    async with bff.browser("alice", query=query) as alice:
        assert alice.hello["recovered"] == {"user": True, "all": True}
        assert alice.hello["positions"] == {"user": user[-1].id, "all": everybody.id}
        events = [(await alice.receive())["payload"] for _ in range(4)]
        assert [event["event"] for event in events] == [0, 1, 2, "to all"]
        assert [event["id"] for event in events] == [sent.id for sent in (*user, everybody)]
        await messenger.to_user("alice", "news", "live")
        assert (await alice.receive())["payload"]["event"] == "live"


async def test_a_position_in_the_stream_of_another_user_recovers_nothing(
    bff: RunningBff, messenger: Messenger
) -> None:
    sent = await messenger.to_user("alice", "secret", 1)
    epoch = str(sent.id).split("/")[1]
    async with bff.browser("mallory", query=f"?since=user/{epoch}/0") as mallory:
        assert mallory.hello["recovered"] == {"user": False}
        await messenger.to_user("mallory", "marker", None)
        assert (await mallory.receive())["payload"]["topic"] == "marker"


@pytest.mark.parametrize("since", ["nonsense", "user/abc/-1", "topic:x/abc/1", "user/a/1,user/a/2"])
async def test_a_malformed_position_closes_with_4501(bff: RunningBff, since: str) -> None:
    headers = {"Authorization": f"Bearer {bff.token('alice')}"}
    async with bff.handshake(f"?since={since}", headers) as browser:
        assert await browser.closed() == CloseCode.BAD_FRAME


async def test_a_message_that_is_too_large_closes_no_connection(
    alice: Browser, messenger: Messenger, settings: Settings
) -> None:
    with pytest.raises(Problem) as refused:
        await messenger.to_user("alice", "news", "x" * settings.max_queue_bytes)
    assert refused.value.code is Code.SERVICE_ERROR
    await messenger.to_user("alice", "marker", None)
    assert (await alice.receive())["payload"]["topic"] == "marker"
