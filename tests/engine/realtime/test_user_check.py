"""Users who are connected are checked again."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import cast

import pytest
from bff.audit.log import AuditLog
from bff.auth.caller import Caller
from bff.cluster.revocations import Revocations
from bff.realtime import user_check
from bff.realtime.handler_manager import HandlerManager
from bff.realtime.user_check import UserCheck
from bff.settings import Settings
from bff.testing import RunningBff, run, until

from tests.engine.echo import create_app


class Directory:
    """The app's decision."""

    def __init__(self) -> None:
        self.denied: set[str] = set()
        self.broken: set[str] = set()
        self.silent: set[str] = set()
        self.asked: list[str] = []

    async def still_allowed(self, caller: Caller) -> bool:
        self.asked.append(caller.user_id)
        if caller.user_id in self.broken:
            raise ConnectionRefusedError
        if caller.user_id in self.silent:
            await asyncio.Event().wait()
        return caller.user_id not in self.denied


@pytest.fixture
def directory() -> Directory:
    return Directory()


@pytest.fixture
async def bff(settings: Settings, directory: Directory) -> AsyncIterator[RunningBff]:
    settings = settings.model_copy(update={"user_check_seconds": 0.1})
    app = create_app(settings, still_allowed=directory.still_allowed)
    async with run(app) as running:
        yield running


async def test_a_user_who_is_not_allowed_any_more_is_signed_out_and_nobody_else(
    bff: RunningBff, directory: Directory
) -> None:
    token = bff.token("alice")
    async with (
        bff.browser(token=token) as first,
        bff.events("alice") as stream,
        bff.browser("bob") as bob,
    ):
        directory.denied.add("alice")
        assert await first.closed() == await stream.closed() == 4505
        async with bff.handshake("", {"Authorization": f"Bearer {token}"}) as again:
            assert await again.closed() == 4505
        answer = await bob.ask({"type": "ping", "payload": {"trace_id": "p"}})
        assert answer == {"trace_id": "p"}
    audit = bff.engine.audit

    async def entries() -> set[tuple[str, str | None, str | None]]:
        """More than one is the same, if a check came before her connections were gone."""
        await audit._waiting.join()
        return {(one.action, one.user_id, one.actor_id) for one in await audit.read()}

    async def are_there() -> bool:
        return bool(await entries())

    await until(are_there)
    assert await entries() == {("user_revoked", "alice", None)}


async def test_a_check_that_fails_ends_nothing_and_is_repeated(
    bff: RunningBff, directory: Directory, caplog: pytest.LogCaptureFixture
) -> None:
    directory.broken.add("alice")
    async with bff.browser("alice") as browser:
        await until(lambda: directory.asked.count("alice") > 2)
        answer = await browser.ask({"type": "ping", "payload": {"trace_id": "p"}})
        assert answer == {"trace_id": "p"}
    assert "could not check user" in caplog.text


async def test_a_user_is_asked_about_once_for_all_connections(
    bff: RunningBff, directory: Directory
) -> None:
    async with bff.browser("alice"), bff.browser("alice"), bff.browser("bob"):
        directory.asked.clear()
        await until(lambda: len(directory.asked) > 5)
        counts = {name: directory.asked.count(name) for name in ("alice", "bob")}
        assert abs(counts["alice"] - counts["bob"]) <= 1


class Clock:
    """Stands in for `asyncio` of the module: its time passes only in pauses and in the app."""

    timeout = staticmethod(asyncio.timeout)
    gather = staticmethod(asyncio.gather)

    def __init__(self, until: float) -> None:
        self._until = until
        self._now = 1000.0

    def get_running_loop(self) -> Clock:
        return self

    def time(self) -> float:
        return self._now

    @property
    def passed(self) -> int:
        return round(self._now - 1000)

    def pass_by(self, seconds: float) -> None:
        self._now += seconds

    async def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        await asyncio.sleep(0)
        self._now += seconds
        if self._now - 1000 > self._until:
            raise EndOfTest


class EndOfTest(Exception):
    pass


async def asked(
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    users: int,
    first_takes: float,
) -> dict[int, int]:
    """How many users the app is asked about in each second, if all are to be in a minute."""
    clock = Clock(95)
    monkeypatch.setattr(user_check, "asyncio", clock)
    names: list[tuple[int, str]] = []

    async def still_allowed(caller: Caller) -> bool:
        names.append((clock.passed, caller.user_id))
        if len(names) == 1:
            clock.pass_by(first_takes)
        return True

    handlers = [
        SimpleNamespace(caller=Caller(f"user-{number}", "", frozenset(), "", 0))
        for number in range(users)
    ]
    check = UserCheck(
        still_allowed,
        cast(HandlerManager, handlers),
        cast(Revocations, None),
        cast(AuditLog, None),
        settings.model_copy(update={"user_check_seconds": 60}),
    )
    with pytest.raises(EndOfTest):
        await check.run()
    assert len(set(names)) == len(names), "nobody twice at once"
    return dict(Counter(at for at, _ in names))


@pytest.mark.parametrize(
    ("users", "first_takes", "expected"),
    [
        (0, 0, {}),
        (1, 0, {30: 1, 60: 1, 90: 1}),
        (20, 0, {30: 20, 60: 20, 90: 20}),
        (45, 0, {10: 20, 20: 20, 30: 5, 40: 20, 50: 20, 60: 5, 70: 20, 80: 20, 90: 5}),
        (1, 31, {30: 1, 61: 1, 91: 1}),
    ],
    ids=["nobody", "one", "a few at once", "a few at a time", "no more often after a slow answer"],
)
async def test_users_are_asked_about_in_half_the_time(
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    users: int,
    first_takes: int,
    expected: dict[int, int],
) -> None:
    """Who connects during a round is asked about in the next one: within the whole time."""
    assert await asked(monkeypatch, settings, users, first_takes) == expected


async def test_an_app_that_does_not_answer_about_one_user_holds_up_no_other(
    bff: RunningBff, directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_check, "_SECONDS", 0.05)
    directory.silent.add("alice")
    async with bff.browser("alice") as alice, bff.browser("bob") as bob:
        await until(lambda: directory.asked.count("alice") > 1)
        directory.denied.add("bob")
        assert await bob.closed() == 4505
        answer = await alice.ask({"type": "ping", "payload": {"trace_id": "p"}})
        assert answer == {"trace_id": "p"}
