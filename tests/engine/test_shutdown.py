"""A signal drains the connections before the server's own handler gets it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bff.shutdown import drain_before_shutdown
from bff.testing import until

Handled = list[int]


@pytest.fixture
def handled() -> Iterator[Handled]:
    """The signals that the server's handler got."""
    numbers: Handled = []
    before = {
        number: signal.signal(number, lambda number, _: numbers.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


class Draining:
    def __init__(self) -> None:
        self.begun = 0
        self.may_end = asyncio.Event()
        self.error: Exception | None = None

    async def drain(self) -> None:
        self.begun += 1
        await self.may_end.wait()
        if self.error is not None:
            raise self.error


def drained_by(draining: Draining) -> Any:
    return drain_before_shutdown(draining)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_server_gets_the_signal_after_the_drain(
    handled: Handled, number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    draining = Draining()
    with drained_by(draining):
        signal.raise_signal(number)
        await until(lambda: draining.begun == 1)
        signal.raise_signal(signal.SIGTERM)
        await asyncio.sleep(0.02)
        assert handled == []
        draining.may_end.set()
        await until(lambda: handled == [number])
        signal.raise_signal(signal.SIGTERM)
        await until(lambda: handled == [number, signal.SIGTERM])
    assert draining.begun == 1
    assert caplog.records == []


async def test_a_second_ctrl_c_cancels_the_drain(handled: Handled) -> None:
    draining = Draining()
    with drained_by(draining):
        signal.raise_signal(signal.SIGTERM)
        await until(lambda: draining.begun == 1)
        signal.raise_signal(signal.SIGINT)
        await until(lambda: handled == [signal.SIGTERM])


async def test_a_drain_that_fails_does_not_keep_the_server_from_stopping(
    handled: Handled, caplog: pytest.LogCaptureFixture
) -> None:
    draining = Draining()
    draining.error = ValueError("odd")
    draining.may_end.set()
    with drained_by(draining):
        signal.raise_signal(signal.SIGTERM)
        await until(lambda: handled == [signal.SIGTERM])
    assert [one.message for one in caplog.records] == ["drain failed"]


async def test_a_drain_that_still_runs_at_the_end_is_cancelled(handled: Handled) -> None:
    draining = Draining()
    with drained_by(draining):
        signal.raise_signal(signal.SIGTERM)
        await until(lambda: draining.begun == 1)
        (task,) = [one for one in asyncio.all_tasks() if one.get_name() == "drain"]
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_afterwards_the_handlers_are_as_before(handled: Handled) -> None:
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with drained_by(Draining()):
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN, "an ignored signal stays so"
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
    with drained_by(Draining()):
        own: Callable[..., None] = lambda *_: None  # noqa: E731
        signal.signal(signal.SIGTERM, own)
    assert signal.getsignal(signal.SIGTERM) is own, "one that was set meanwhile stays"


async def test_in_another_thread_nothing_happens(handled: Handled) -> None:
    """Python allows signal handlers in the main thread only."""

    def enter() -> bool:
        before = signal.getsignal(signal.SIGTERM)
        with drained_by(Draining()):
            return signal.getsignal(signal.SIGTERM) is before

    assert await asyncio.to_thread(enter)
