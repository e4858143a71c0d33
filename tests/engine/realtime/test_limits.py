"""Token buckets, and the allowance that a user has over all connections and HTTP."""

from __future__ import annotations

import time
from types import SimpleNamespace

import httpx2
import pytest
from bff.auth.caller import Caller
from bff.connections.close_codes import CloseCode
from bff.errors import Code, Problem
from bff.realtime import connection_handler, handshake_limit, limits
from bff.realtime.handshake_limit import HandshakeLimit, _network
from bff.realtime.limits import InFlight, TokenBucket, TokenBuckets
from bff.settings import Settings
from bff.telemetry.metrics import Metrics
from bff.testing import Browser, RunningBff
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.engine.doubles import RecordingTransport

PING = {"type": "ping", "payload": {"trace_id": "p"}}


class Clock:
    """Replaces the module `time` of the modules under test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = float(int(time.monotonic()))
        for module in (limits, connection_handler, handshake_limit):
            fake = SimpleNamespace(monotonic=lambda: self.now, time=time.time)
            monkeypatch.setattr(module, "time", fake)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_a_bucket_reports_when_the_next_token_comes(clock: Clock) -> None:
    bucket = TokenBucket(per_second=2, burst=3)
    assert [bucket.take() for _ in range(4)] == [0, 0, 0, 0.5]
    clock.now += 0.25
    assert bucket.take() == 0.25
    clock.now += 0.25
    assert bucket.take() == 0
    clock.now += 1000
    assert [bucket.take() for _ in range(4)] == [0, 0, 0, 0.5]


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["hold", "release", "take", "wait"]), st.integers(min_value=0, max_value=20)
    ),
    max_size=200,
)


@hypothesis_settings(derandomize=True, deadline=None, max_examples=150)
@given(_STEPS)
def test_in_any_order_the_table_is_bounded_and_no_user_gets_more(
    steps: list[tuple[str, int]],
) -> None:
    """With as many keys as the table keeps, nobody gains by being forgotten."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        clock = Clock(monkeypatch)
        start = clock.now
        buckets = TokenBuckets(per_second=1, burst=3, max_keys=25)
        held: dict[str, list[TokenBucket]] = {}
        taken: dict[str, int] = {}
        for step, number in steps:
            key = str(number)
            if step == "wait":
                clock.now += number / 10
            elif step == "hold":
                held.setdefault(key, []).append(buckets.hold(key))
                assert len(set(map(id, held[key]))) == 1
            elif step == "release" and held.get(key):
                held[key].pop()
                buckets.release(key)
            elif step == "take":
                took = held[key][0].take() if held.get(key) else buckets.take(key)
                taken[key] = taken.get(key, 0) + (took == 0)
                assert taken[key] <= 3 + clock.now - start + 1e-6
        assert len(buckets._others) <= 25
        assert len(buckets._held) == sum(bool(one) for one in held.values())


def test_idle_users_are_forgotten_and_a_flood_of_users_is_bounded(clock: Clock) -> None:
    buckets = TokenBuckets(per_second=4, burst=2, max_keys=100)
    for number in range(1000):
        buckets.take(f"{number}")
    assert len(buckets) == 100
    clock.now += 0.25
    for _ in range(60):
        buckets.take("the same user")
        buckets.take(f"other {_}")
    assert len(buckets) < 70


@pytest.mark.parametrize(
    ("address", "neighbour"),
    [
        ("2001:db8::1", "2001:db8::ffff:2"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::2%eth0"),
    ],
)
def test_addresses_of_one_client(address: str, neighbour: str) -> None:
    assert _network(address) == _network(neighbour)


@pytest.mark.parametrize(
    ("address", "other"),
    [
        ("2001:db8:0:2::1", "2001:db8:0:3::1"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2"),
        ("192.0.2.1", "192.0.2.2"),
    ],
)
def test_addresses_of_two_clients(address: str, other: str) -> None:
    assert _network(address) != _network(other)


@hypothesis_settings(derandomize=True, deadline=None, max_examples=100)
@given(st.text(max_size=50))
def test_any_text_may_be_an_address(settings_text: str) -> None:
    assert isinstance(_network(settings_text), str)


def refusal(limit: HandshakeLimit, address: str) -> float | None:
    """How long a client at this address must wait with its handshake; None if it is accepted."""
    try:
        limit.check(address)
    except Problem as problem:
        return problem.retry_after_seconds
    return None


def refused_handshakes() -> list[float]:
    registry = Metrics().registry
    return [
        registry.get_sample_value("bff_connections_refused_total", {"limit": limit}) or 0
        for limit in ("address", "total")
    ]


def test_one_address_cannot_take_the_handshakes_of_the_others(
    settings: Settings, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    rates = {"max_handshakes_per_second_per_address": 2, "max_handshakes_per_second": 5}
    limit, before = HandshakeLimit(settings.model_copy(update=rates)), refused_handshakes()
    assert {refusal(limit, "192.0.2.1") for _ in range(20)} == {None}
    assert {refusal(limit, "192.0.2.1") for _ in range(3)} == {0.5}
    assert {refusal(limit, "") for _ in range(30)} == {None}, "it is not known whose they are"
    assert {refusal(limit, "192.0.2.2") for _ in range(2)} == {0.2}
    assert refused_handshakes() == [before[0] + 3, before[1] + 2]
    clock.now += 0.5
    assert [refusal(limit, "192.0.2.1") for _ in range(2)] == [None, 0.5]
    lines = [(vars(one)["limit"], vars(one)["address"]) for one in caplog.records]
    assert lines == [("address", "192.0.2.1"), ("total", "192.0.2.2")]
    clock.now += 59.5
    while (seconds := refusal(limit, "192.0.2.3")) is None:
        pass
    assert seconds == 0.5
    assert vars(caplog.records[-1])["address"] == "192.0.2.3", "a minute after the last line"
    assert len(caplog.records) == 3


def test_zero_switches_the_limits_of_handshakes_off(settings: Settings) -> None:
    off = {"max_handshakes_per_second": 0, "max_handshakes_per_second_per_address": 0}
    limit = HandshakeLimit(settings.model_copy(update=off))
    for _ in range(100_000):
        limit.check("192.0.2.1")


class TestOneAllowance:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_message_burst": 6, "max_messages_per_minute": 1})

    async def test_is_shared_by_all_sockets_and_http(self, bff: RunningBff) -> None:
        async with bff.browser() as one, bff.browser() as two, bff.http() as http:
            for browser in (one, two):
                await browser.ask(PING)
                await browser.ask(PING)
            assert (await http.post("/rpc/echo/say")).status_code == 200
            assert (await http.post("/auth/ticket")).status_code == 200
            for browser in (one, two):
                error = (await browser.request("echo", "say"))["error"]
                assert (error["code"], error["outcome"]) == ("rate_limited", "not_sent")
                assert 0 < error["retry_after_ms"] <= 60_000
            for path in ("/rpc/echo/say", "/auth/ticket"):
                is_refused(await http.post(path))
        metrics = bff.engine.metrics.registry
        assert metrics.get_sample_value("bff_http_rate_limited_total") == 2
        async with bff.browser("bob") as bob:
            assert (await bob.request("echo", "say"))["error"] is None

    async def test_a_new_connection_does_not_renew_it(self, bff: RunningBff) -> None:
        for _ in range(3):
            async with bff.browser() as browser:
                await browser.ask(PING)
                await browser.ask(PING)
        async with bff.browser() as browser:
            assert (await browser.request("echo", "say"))["error"]["code"] == "rate_limited"

    async def test_administrators_have_one_too(self, bff: RunningBff) -> None:
        broadcast = {"audience": "all", "topic": "notice", "event": {}}
        async with bff.http("carol", ["admin"]) as http:
            answers = [await http.post("/admin/broadcasts", json=broadcast) for _ in range(7)]
        assert [one.status_code for one in answers] == [201] * 6 + [429]
        is_refused(answers[-1])


def is_refused(response: httpx2.Response) -> None:
    assert response.status_code == 429
    assert response.json()["code"] == "rate_limited"
    assert 0 < response.json()["retry_after_ms"] <= 60_000
    assert 1 <= int(response.headers["retry-after"]) <= 60


class TestAClientThatContinues:
    """10 frames a second are allowed: tokens come back all the time."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_message_burst": 10, "max_messages_per_minute": 600})

    async def test_is_closed(
        self, bff: RunningBff, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with bff.browser() as browser:
            closed_after = await self.send(bff, browser, clock, frames_per_second=160)
            assert await browser.closed() == CloseCode.TOO_MANY_REQUESTS
        assert 200 < closed_after < 240
        lines = [one for one in caplog.records if "too many frames" in one.message]
        assert [one.__dict__["user"] for one in lines] == ["alice"]

    async def test_a_little_more_than_allowed_is_not_closed(
        self, bff: RunningBff, clock: Clock
    ) -> None:
        async with bff.browser(max_queue=None) as browser:
            assert not await self.send(bff, browser, clock, frames_per_second=12)

    async def send(
        self, bff: RunningBff, browser: Browser, clock: Clock, frames_per_second: int
    ) -> int:
        """The number of the frame that closed the connection, or 0 if it is still open."""
        (handler,) = bff.engine.handlers
        for number in range(1, 2000):
            clock.now += 1 / frames_per_second
            handler.receive('{"type":"ping"}')
            if handler.connection.close_code is not None:
                return number
        return 0


class TestAnAnswerBeyondTheLimit:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"max_message_burst": 1, "max_messages_per_minute": 1})

    @pytest.mark.parametrize(("pause", "is_closed"), [(60, True), (61, False)])
    async def test_is_given_200_times_in_a_minute(
        self, bff: RunningBff, clock: Clock, pause: int, is_closed: bool
    ) -> None:
        transport = RecordingTransport()
        caller = Caller("alice", "Alice", frozenset(), "", int(time.time()) + 600)
        handler = bff.engine.handlers.open(transport, caller)
        await bff.engine.handlers.admit(handler, {})
        handler.receive('{"type":"ping"}')
        for _ in range(100):  # what is not read is no bad frame
            handler.receive('{"type":"ping"}')
            handler.receive("nonsense")
        kinds = [one["type"] for one in transport.messages()[1:]]
        assert kinds == ["pong"] + ["error"] * 200
        clock.now += pause
        handler.receive('{"type":"ping"}')
        assert transport.messages()[-1]["type"] == "pong"
        handler.receive('{"type":"ping"}')
        assert (transport.closed is not None) is is_closed
        for _ in range(199):
            handler.receive('{"type":"ping"}')
        assert (transport.closed is not None) is is_closed
        handler.receive('{"type":"ping"}')
        assert transport.closed == (CloseCode.TOO_MANY_REQUESTS, "")
        bff.engine.handlers.on_closed(handler, CloseCode.ABNORMAL)


def test_a_user_may_have_as_many_requests_at_once_as_the_limit_says() -> None:
    in_flight = InFlight(2)
    in_flight.enter("alice")
    in_flight.enter("alice")
    in_flight.enter("bob")
    with pytest.raises(Problem) as caught:
        in_flight.enter("alice")
    assert caught.value.code is Code.TOO_MANY_IN_FLIGHT
    in_flight.leave("alice")
    in_flight.enter("alice")
    for user in ("alice", "alice", "bob"):
        in_flight.leave(user)
    assert not in_flight._running, "users without requests are forgotten"
