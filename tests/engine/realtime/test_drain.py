"""How the drain time is spent, and when sockets come back."""

from __future__ import annotations

import pytest
from bff.realtime.drain import Plan


def test_a_drain_time_is_spent_on_notice_turns_and_warning() -> None:
    plan = Plan.of(30)
    assert (plan.notice, plan.turns, plan.warning, plan.requests) == (3, 26, 1, 5)


@pytest.mark.parametrize("seconds", [0, 0.5, 4, 30, 600])
def test_nothing_takes_longer_than_the_drain_time(seconds: float) -> None:
    plan = Plan.of(seconds)
    assert plan.notice + plan.turns + plan.warning == pytest.approx(seconds)
    assert min(plan.notice, plan.turns, plan.warning) >= 0
    assert plan.requests <= seconds


def test_what_turns_have_spread_comes_back_at_once() -> None:
    assert {Plan.of(30).reconnect_after(5000) for _ in range(100)} == {0.25}


@pytest.mark.parametrize(("seconds", "sockets"), [(0, 2000), (30, 10_000)])
def test_what_turns_cannot_spread_pauses_do(seconds: float, sockets: int) -> None:
    plan = Plan.of(seconds)
    waits = [plan.reconnect_after(sockets) for _ in range(1000)]
    longest = sockets / 200 - plan.turns
    assert 0.25 <= min(waits) < 0.25 + longest / 4
    assert 0.25 + longest * 3 / 4 < max(waits) <= 0.25 + longest
