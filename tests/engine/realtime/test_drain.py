"""How the drain time is divided, and when clients reconnect."""

from __future__ import annotations

import pytest
from bff.realtime.drain import DrainSchedule


def test_a_drain_time_is_divided() -> None:
    assert DrainSchedule.of(30) == DrainSchedule(
        unready_seconds=3, spread_seconds=26, warning_seconds=1, request_grace_seconds=5
    )


@pytest.mark.parametrize("seconds", [0, 0.5, 4, 30, 600])
def test_no_part_is_longer_than_the_drain_time(seconds: float) -> None:
    schedule = DrainSchedule.of(seconds)
    parts = (schedule.unready_seconds, schedule.spread_seconds, schedule.warning_seconds)
    assert sum(parts) == pytest.approx(seconds)
    assert min(parts) >= 0
    assert schedule.request_grace_seconds <= seconds


def test_clients_reconnect_at_once_when_the_drain_time_spreads_them() -> None:
    assert {DrainSchedule.of(30).reconnect_delay(5000) for _ in range(100)} == {0.25}


@pytest.mark.parametrize(("seconds", "connections"), [(0, 2000), (30, 10_000)])
def test_random_delays_spread_more_connections(seconds: float, connections: int) -> None:
    schedule = DrainSchedule.of(seconds)
    waits = [schedule.reconnect_delay(connections) for _ in range(1000)]
    longest = connections / 200 - schedule.spread_seconds
    assert 0.25 <= min(waits) < 0.25 + longest / 4
    assert 0.25 + longest * 3 / 4 < max(waits) <= 0.25 + longest
