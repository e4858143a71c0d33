"""`/events` over real HTTP: the same frames and guarantees as `/ws`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from bff.auth.caller import Caller
from bff.cluster.messenger import Messenger
from bff.connections.close_codes import CloseCode
from bff.connections.positions import parse_cursor
from bff.errors import Code, Problem
from bff.realtime.router import RealtimeRouter
from bff.settings import Settings
from bff.testing import RunningBff, run, until

from tests.engine.echo import create_app

ORIGIN = "http://localhost:8000"
realtime = RealtimeRouter()


@realtime.topic("prices.*", scopes=["prices"])
async def may_see_prices(caller: Caller) -> bool:
    return caller.user_id != "mallory"


@realtime.topic("unavailable")
async def unavailable() -> bool:
    raise ConnectionError("no Redis")


@pytest.fixture
async def bff(settings: Settings) -> AsyncIterator[RunningBff]:
    async with run(create_app(settings, realtime)) as running:
        yield running


@pytest.fixture
def messenger(bff: RunningBff) -> Messenger:
    sender: Messenger = bff.engine.messenger
    return sender


async def refusal(
    bff: RunningBff, headers: dict[str, str] | None = None, **query: str
) -> tuple[int, Any]:
    """Status and error code of a response that is not an event stream."""
    async with bff.event_stream(headers, **query) as source:
        await source.response.aread()
        if not source.response.content:
            return source.response.status_code, None
        assert source.response.headers["content-type"] == "application/problem+json"
        return source.response.status_code, source.response.json()["code"]


def signed_in(bff: RunningBff, user: str = "alice", *scopes: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {bff.token(user, scopes)}"}


# Frames


async def test_the_hello_comes_first_and_is_the_same_as_on_a_websocket(bff: RunningBff) -> None:
    async with bff.events("alice") as source, bff.browser("alice") as browser:
        assert set(source.hello) == set(browser.hello)
        assert source.hello["positions"] == browser.hello["positions"]
        assert source.hello["session_id"].startswith(bff.engine.index.instance_id)
        headers = source.response.headers
        assert headers["content-type"].startswith("text/event-stream")
        assert "no-cache" in headers["cache-control"]
        assert headers["x-accel-buffering"] == "no"
        assert headers["connection"] == "close", "nothing else is sent on it"
        assert source.retry is not None
        assert 1000 <= source.retry <= 4000


async def test_frames_are_the_same_as_on_a_websocket(bff: RunningBff, messenger: Messenger) -> None:
    async with bff.events("alice") as source, bff.browser("alice") as browser:
        await messenger.to_user("alice", "news", {"n": 1})
        await messenger.to_all("news", [None])
        for connection_id in (source.hello["session_id"], browser.hello["session_id"]):
            await messenger.to_connection(connection_id, "note", "for one connection")
        for _ in range(3):
            assert await source.receive() == await browser.receive()


async def test_no_text_ends_a_data_line(bff: RunningBff, messenger: Messenger) -> None:
    """Neither do Unicode line separators: only CR and LF end a line of an event stream."""
    text = "".join(map(chr, range(0xD800))) + "\n\r\n\ndata: forged\nid: forged\n\n"
    async with bff.events("alice") as source:
        await messenger.to_user("alice", "te\u2028xt", {text: text})
        frame = await source.receive()
        assert frame["payload"]["topic"] == "te\u2028xt"
        assert frame["payload"]["event"] == {text: text}
        assert "forged" not in source.last_event_id


async def test_topics_are_subscribed_from_the_start(bff: RunningBff, messenger: Messenger) -> None:
    async with bff.events("alice", ["prices"], topics="prices.tea,prices.öl") as source:
        assert set(source.hello["positions"]) == {
            "user",
            "all",
            "topic:prices.tea",
            "topic:prices.öl",
        }
        for topic in ("prices.tea", "prices.öl"):
            await messenger.to_topic(topic, 3)
            frame = await source.receive()
            assert (frame["payload"]["topic"], frame["payload"]["event"]) == (topic, 3)
    most = bff.settings.max_topics_per_connection
    names = ",".join(f"prices.{number}" for number in range(most))
    async with bff.events("alice", ["prices"], topics=names) as source:
        assert len(source.hello["positions"]) == most + 2


async def test_comments_are_sent_when_there_are_no_events(settings: Settings) -> None:
    settings = settings.model_copy(update={"ping_interval_seconds": 0.05})
    async with run(create_app(settings)) as bff, bff.events("alice") as source:
        coming = asyncio.create_task(source.receive())
        await until(lambda: source.comments >= 2)
        await bff.engine.messenger.to_user("alice", "news", 1)
        await coming
        assert source.hello["ping_interval"] == 0.05


# Reconnecting


async def test_missed_messages_of_every_stream_follow_a_reconnect(
    bff: RunningBff, messenger: Messenger
) -> None:
    topics = "prices.tea,prices.öl"
    async with bff.events("alice", ["prices"], topics=topics) as before:
        await messenger.to_user("alice", "news", "seen")
        await before.receive()
        seen = before.last_event_id
    missed = {
        (await messenger.to_user("alice", "news", 1)).id,
        (await messenger.to_user("alice", "news", 2)).id,
        (await messenger.to_all("news", 3)).id,
        await messenger.to_topic("prices.öl", 4),
        await messenger.to_topic("prices.öl", 5),
    }
    async with bff.events("alice", ["prices"], topics=topics, last_event_id=seen) as source:
        assert set(source.hello["recovered"].values()) == {True}
        assert set(source.hello["recovered"]) == set(source.hello["positions"])
        events = [(await source.receive())["payload"] for _ in missed]
        assert {event["id"] for event in events} == missed
        assert [event["event"] for event in events if event["topic"] == "news"] == [1, 2, 3]
        assert [event["event"] for event in events if event["topic"] == "prices.öl"] == [4, 5]
        cursor = parse_cursor(source.last_event_id)
        assert {s: p.id_in(s) for s, p in cursor.items()} == source.hello["positions"]
        await messenger.to_topic("prices.tea", "live")
        assert (await source.receive())["payload"]["event"] == "live"


async def test_a_connection_lost_during_catch_up_loses_no_message(
    bff: RunningBff, messenger: Messenger
) -> None:
    """The id of the hello is the client's position, not that of the newest message, so the next
    connection continues the catch-up."""
    async with bff.events("alice") as first:
        seen = first.last_event_id
    sent = [(await messenger.to_user("alice", "news", n)).id for n in range(3)]
    async with bff.events("alice", last_event_id=seen) as second:
        assert second.hello["positions"]["user"] == sent[-1]
        assert second.last_event_id == seen
        assert (await second.receive())["payload"]["id"] == sent[0]
        seen = second.last_event_id
    async with bff.events("alice", last_event_id=seen) as third:
        assert [(await third.receive())["payload"]["id"] for _ in range(2)] == sent[1:]


async def test_a_stream_that_cannot_be_recovered_is_reported_and_continues(
    bff: RunningBff, messenger: Messenger
) -> None:
    sent = await messenger.to_user("alice", "news", 1)
    async with bff.events("alice", last_event_id="user/another/0") as source:
        assert source.hello["recovered"] == {"user": False}
        assert source.last_event_id.split(",")[0] == sent.id


async def test_last_event_id_takes_precedence_over_since(
    bff: RunningBff, messenger: Messenger
) -> None:
    async with bff.events("alice") as before:
        begin = before.last_event_id
    sent = [(await messenger.to_user("alice", "news", n)).id for n in range(2)]
    async with bff.events("alice", since=begin) as source:
        assert [(await source.receive())["payload"]["id"] for _ in sent] == sent
    async with bff.events("alice", since=begin, last_event_id=str(sent[0])) as source:
        assert (await source.receive())["payload"]["id"] == sent[1]


async def test_positions_in_streams_without_subscription_are_ignored(
    bff: RunningBff, messenger: Messenger
) -> None:
    sent = await messenger.to_topic("prices.tea", 1)
    assert sent is not None
    before = sent.rpartition("/")[0] + "/0"
    async with bff.events("mallory", last_event_id=before) as source:
        assert source.hello["recovered"] == {}
        await messenger.to_user("mallory", "marker", None)
        assert (await source.receive())["payload"]["topic"] == "marker"


async def test_a_topic_subscribed_by_the_server_is_in_the_cursor(
    bff: RunningBff, messenger: Messenger
) -> None:
    async with bff.events("alice") as source:
        await messenger.subscribe("alice", "prices.tea")
        subscribed = await source.event("subscribed")
        assert "topic:prices.tea" in parse_cursor(source.last_event_id)
        assert subscribed["event"]["positions"]["topic:prices.tea"] in source.last_event_id


async def test_a_retained_broadcast_does_not_move_the_cursor(bff: RunningBff) -> None:
    body = {"audience": "all", "topic": "news", "event": {}, "expires_at": "2999-01-01T00:00:00Z"}
    async with bff.http("admin", ["admin"]) as http:
        assert (await http.post("/admin/broadcasts", json=body)).status_code == 201
    async with bff.events("alice") as source:
        seen = source.last_event_id
        assert "id" not in await source.event("news")
        assert source.last_event_id == seen


# Refusals


@pytest.mark.parametrize(
    ("user", "query", "status", "code"),
    [
        ("alice", {"topics": "weather"}, 404, "not_found"),
        ("mallory", {"topics": "prices.tea"}, 403, "forbidden"),
        ("bob", {"topics": "prices.tea"}, 403, "forbidden"),
        ("alice", {"topics": "prices.tea,,prices.tea"}, 422, "invalid_params"),
        ("alice", {"topics": ",".join(f"prices.{n}" for n in range(129))}, 403, "forbidden"),
        ("alice", {"topics": "x" * 3001}, 422, "invalid_params"),
        ("alice", {"since": "nonsense"}, 422, "invalid_params"),
        ("alice", {"since": "user/a/1,user/a/2"}, 422, "invalid_params"),
    ],
)
async def test_refused_topics_and_positions_have_an_http_status(
    bff: RunningBff, user: str, query: dict[str, str], status: int, code: str
) -> None:
    scopes = () if user == "bob" else ("prices",)
    assert await refusal(bff, signed_in(bff, user, *scopes), **query) == (status, code)
    assert not await bff.engine.index.connections_of(user)


@pytest.mark.parametrize("authorization", ["", "nonsense", "Bearer a.b.c"])
async def test_an_invalid_token_is_401(bff: RunningBff, authorization: str) -> None:
    headers = {"Authorization": authorization} if authorization else None
    assert await refusal(bff, headers) == (401, "unauthenticated")


async def test_an_expired_token_is_401(bff: RunningBff) -> None:
    headers = {"Authorization": f"Bearer {bff.token('alice', lifetime=-60)}"}
    assert await refusal(bff, headers) == (401, "unauthenticated")


async def test_a_ticket_is_neither_accepted_nor_used_up(bff: RunningBff) -> None:
    """`EventSource` sends cookies; a ticket in its URL would be sent again at each reconnect."""
    async with bff.http("alice") as http:
        ticket = (await http.post("/auth/ticket")).json()["ticket"]
    assert await refusal(bff, ticket=ticket) == (401, "unauthenticated")
    async with bff.handshake(f"?ticket={ticket}", {}) as browser:
        assert (await browser.receive())["payload"]["topic"] == "hello"


async def test_a_cookie_is_accepted_from_allowed_origins_only(bff: RunningBff) -> None:
    cookie = {"Cookie": f"Authorization={bff.token('alice')}"}
    for good in ({"Origin": ORIGIN}, {"Sec-Fetch-Site": "same-origin"}):
        async with bff.event_stream(cookie | good) as source:
            assert (await source.receive())["payload"]["event"]["user_id"] == "alice"
    foreign: tuple[dict[str, str], ...] = (
        {},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    )
    cross = {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"}
    for bad in (*foreign, cross, {"Sec-Fetch-Site": "same-site"}, {"Sec-Fetch-Site": "none"}):
        assert await refusal(bff, cookie | bad) == (403, "forbidden")


async def test_other_origins_are_refused_with_any_credential(bff: RunningBff) -> None:
    headers = signed_in(bff) | {"Origin": "http://evil.example"}
    assert await refusal(bff, headers) == (403, "forbidden")


class TestTheConnectionLimit:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_connections_per_user": 1})

    async def test_websockets_and_event_streams_count_together(self, bff: RunningBff) -> None:
        async with bff.browser("alice"):
            assert await refusal(bff, signed_in(bff)) == (429, "rate_limited")
            assert len(await bff.engine.index.connections_of("alice")) == 1
        await until_index_is_empty(bff)
        async with bff.events("alice"), bff.handshake("", signed_in(bff)) as browser:
            assert await browser.closed() == CloseCode.CONNECTION_LIMIT


async def test_temporary_failures_end_a_stream_so_that_browsers_reconnect(
    bff: RunningBff,
) -> None:
    """`EventSource` gives up at any status but 200."""
    async with bff.event_stream(signed_in(bff), topics="unavailable") as source:
        assert source.response.status_code == 200
        assert await source.closed() == CloseCode.SERVER_ERROR
        assert source.retry is not None
        assert source.retry >= 5000


class TestTheLimitOfRequests:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_requests_per_user": 1})

    async def test_running_requests_do_not_end_a_page_for_good(self, bff: RunningBff) -> None:
        """`EventSource` and the client take 429 for too many connections, and give up."""
        headers = signed_in(bff, "alice", "prices")
        bff.engine.dispatcher._in_flight.enter("alice")
        async with bff.event_stream(headers, topics="prices.tea") as source:
            assert source.response.status_code == 200
            assert await source.closed() == CloseCode.TOO_MANY_REQUESTS
            assert source.retry is not None
            assert source.retry >= 5000
        async with bff.event_stream(headers) as source:
            assert (await source.receive())["payload"]["topic"] == "hello"


async def test_an_unavailable_redis_ends_a_stream(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(bff.engine.index, "register", refuse)
    async with bff.event_stream(signed_in(bff)) as source:
        assert source.response.status_code == 200
        assert await source.closed() == CloseCode.SERVER_ERROR
    await until(lambda: not list(bff.engine.handlers))


async def test_a_topic_that_cannot_be_read_refuses_the_connection(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise Problem(Code.SERVICE_UNAVAILABLE, "Try again")

    monkeypatch.setattr(bff.engine.handlers._subscriptions, "subscribe", fail)
    headers = signed_in(bff, "alice", "prices")
    async with bff.event_stream(headers, topics="prices.tea") as source:
        assert await source.closed() == CloseCode.SERVER_ERROR
        assert source.last_event_id == ""


async def test_a_topic_that_is_unsubscribed_during_the_admission_refuses_the_connection(
    bff: RunningBff, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The browser connects again, and the check of the topic decides again."""
    subscriptions = bff.engine.cluster.subscriptions
    join = subscriptions.join

    async def and_unsubscribe(*args: Any) -> Any:
        joined = await join(*args)
        subscriptions.unsubscribe_user("alice", "prices.tea")
        return joined

    monkeypatch.setattr(subscriptions, "join", and_unsubscribe)
    headers = signed_in(bff, "alice", "prices")
    async with bff.event_stream(headers, topics="prices.tea") as source:
        assert await source.closed() == CloseCode.SERVER_ERROR
    assert bff.engine.cluster.registry.by_topic("prices.tea") == ()


# The end


async def test_an_administrator_can_list_and_close_it(
    bff: RunningBff, caplog: pytest.LogCaptureFixture
) -> None:
    async with bff.events("alice") as source, bff.http("admin", ["admin"]) as http:
        (shown,) = (await http.get("/admin/users/alice/connections")).json()
        assert shown["connection_id"] == source.hello["session_id"]
        assert shown["user_agent"].startswith("python-httpx2")
        await bff.engine.messenger.close_user("alice")
        assert await source.closed() == CloseCode.REVOKED
    headers = signed_in(bff) | {"Last-Event-ID": source.last_event_id}
    assert await refusal(bff, headers) == (204, None)
    assert await refusal(bff, signed_in(bff), since=source.last_event_id) == (204, None)
    async with bff.events("alice"):
        pass
    assert [one.getMessage() for one in caplog.records if one.levelname == "ERROR"] == []


async def test_it_ends_when_the_token_expires_and_can_reconnect(settings: Settings) -> None:
    settings = settings.model_copy(update={"token_grace_seconds": 0.1})
    async with run(create_app(settings)) as bff:
        async with bff.events(token=bff.token("alice", lifetime=3)) as source:
            assert await source.closed() == CloseCode.TOKEN_EXPIRED
        async with bff.events("alice", last_event_id=source.last_event_id) as source:
            assert source.hello["recovered"] == {"user": True, "all": True}


async def test_a_slow_consumer_is_limited_and_aborted(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings.model_copy(update={"max_queue_bytes": 64 * 1024})
    async with run(create_app(settings)) as bff, bff.browser("bob") as neighbour:
        engine = bff.engine
        reader, writer = await asyncio.open_connection(*bff.address.split(":"), limit=1024)
        token = bff.token("alice")
        writer.write(
            f"GET /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        await reader.readuntil(b'"hello"')

        async def is_in_index() -> bool:
            return bool(await engine.index.connections_of("alice"))

        while await is_in_index():
            for _ in range(20):
                await engine.messenger.to_user("alice", "news", "x" * 32 * 1024)
        await until(lambda: len(bff.server.server_state.connections) == 1)
        assert len(list(engine.handlers)) == 1
        assert [each for each in caplog.records if each.levelname == "ERROR"] == []
        closed = engine.metrics.registry.get_sample_value(
            "bff_connections_closed_total",
            {"code": str(int(CloseCode.SLOW_CONSUMER)), "by": "server"},
        )
        assert closed == 1
        await engine.messenger.to_user("bob", "marker", None)
        assert (await neighbour.receive())["payload"]["topic"] == "marker"
        writer.transport.abort()


async def test_a_closed_connection_leaves_no_state(bff: RunningBff) -> None:
    async with bff.events("alice", ["prices"], topics="prices.tea"):
        assert len(await bff.engine.index.connections_of("alice")) == 1
    await until_index_is_empty(bff)
    assert bff.engine.cluster.streams.of_topic("prices.tea") is None
    left = ("EventStreamTransport.run", "_disconnected")
    await until(lambda: not [one for one in asyncio.all_tasks() if name_of(one) in left])
    assert bff.engine.metrics.registry.get_sample_value("bff_connections") == 0


def name_of(task: asyncio.Task[Any]) -> str:
    name: str = getattr(task.get_coro(), "__qualname__", "")
    return name


class TestDraining:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"drain_seconds": 1})

    async def test_it_gets_drain_and_close_and_new_ones_are_refused(self, bff: RunningBff) -> None:
        async with bff.events("alice") as source:
            draining = asyncio.create_task(bff.engine.draining.drain())
            drain = await source.receive()
            assert drain["type"] == "drain"
            assert source.retry == drain["payload"]["reconnect_after_ms"]
            last = source.last_event_id
            assert await source.closed() == CloseCode.DRAIN
            assert source.last_event_id == last
            await draining
        assert await refusal(bff, signed_in(bff)) == (503, "service_unavailable")


async def until_index_is_empty(bff: RunningBff, user: str = "alice") -> None:
    async def is_empty() -> bool:
        return not await bff.engine.index.connections_of(user)

    await until(is_empty)
