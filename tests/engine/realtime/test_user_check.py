"""Users who are connected are checked again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from bff.auth.caller import Caller
from bff.settings import Settings
from bff.testing import RunningBff, run, until

from tests.engine.echo import create_app


class Directory:
    """The app's decision."""

    def __init__(self) -> None:
        self.denied: set[str] = set()
        self.broken: set[str] = set()
        self.asked: list[str] = []

    async def still_allowed(self, caller: Caller) -> bool:
        self.asked.append(caller.user_id)
        if caller.user_id in self.broken:
            raise ConnectionRefusedError
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
